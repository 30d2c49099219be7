"""Work in numbered files, shared among processes that never talk to each other: a file that is there is done."""

import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rp_models.data.datasets import DataError
from rp_models.training import ProgressBar, RunFolder

POLL = 0.2  # seconds between two looks at what the other processes have done
_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # as torchrun sets them, and without it


@dataclass(frozen=True)
class Workers:
    """Which of how many processes this is, as torchrun tells them.

    Attributes:
        rank: from 0; process 0 is the main one.
        count: of the processes.
        local_rank: number of this process on its machine, for the choice of a device.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Workers":
        """What RANK, WORLD_SIZE and LOCAL_RANK say; one process without them."""
        rank, count, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES.items())
        return cls(rank, count, local)

    @property
    def main(self) -> bool:
        """Whether this process opens the folder and reports."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process, for a name that may leave the choice open."""
        several = self.count > 1 and torch.cuda.is_available() and name in ("auto", "cuda")
        return f"cuda:{self.local_rank}" if several else name

    def share(self, count: int) -> range:
        """The numbers below `count` that are this process's, whatever has been done already."""
        return range(self.rank, count, self.count)

    def claim(self, out: Path, identity: Mapping[str, Any], *, resume: bool) -> RunFolder:
        """The run's folder, opened by the main process; the others wait until it is there.

        Raises:
            RunError: if the folder cannot be used.
        """
        while not self.main and not (out / "config.json").exists():
            time.sleep(POLL)
        return RunFolder.open(out, identity, resume=resume or not self.main)


def wait_for(files: Sequence[Path], seen: Callable[[int], None] = lambda count: None) -> None:
    """Wait until all files are there, and say how many there are."""
    while (count := sum(file.exists() for file in files)) < len(files):
        seen(count)
        time.sleep(POLL)
    seen(count)


class Steps:
    """A progress bar over work in parts, or nothing where another process shows it.

    Args:
        bar: to be moved; None for silence.
    """

    def __init__(self, bar: ProgressBar | None) -> None:
        self._bar, self._before = bar, 0

    def start(self, title: str, total: int) -> None:
        """Work of `total` units begins."""
        self._before = 0
        if self._bar is not None:
            self._bar.start(title, total, 0)

    def within(self, done: int) -> None:
        """So many units of the present part are finished."""
        if self._bar is not None:
            self._bar.advance(self._before + done, {})

    def next(self, size: int) -> None:
        """A part of `size` units is finished."""
        self._before += size

    def finish(self) -> None:
        """The work is finished."""
        if self._bar is not None:
            self._bar.finish()


@dataclass(frozen=True)
class ShardPlan:
    """How numbered images are cut into files.

    Attributes:
        total: images in all.
        size: images in a file, but for the last.
        folder: of the files.
        stem: what their names begin with.
    """

    total: int
    size: int
    folder: Path
    stem: str

    @classmethod
    def of_batches(cls, total: int, size: int, batch_size: int, folder: Path, stem: str) -> "ShardPlan":
        """A plan whose files hold whole batches, so that the batches are the same in every plan."""
        return cls(total, -(-size // batch_size) * batch_size, folder, stem)

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def numbers(self, shard: int) -> range:
        """The numbers of a file's images."""
        return range(shard * self.size, min((shard + 1) * self.size, self.total))

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{self.stem}-{shard:05d}-of-{len(self):05d}.npz"

    @property
    def paths(self) -> list[Path]:
        """All files, in order."""
        return [self.path(shard) for shard in range(len(self))]


def read_shard(path: Path) -> tuple[Tensor, Tensor]:
    """Images, uint8 (n, c, h, w), and labels, int64 (n,), of a file, in memory.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = torch.from_numpy(file["image"]), torch.from_numpy(file["label"])
        if images.dim() != 4 or labels.shape != images.shape[:1]:
            raise ValueError(f"images {tuple(images.shape)}, labels {tuple(labels.shape)}")
        return images.permute(0, 3, 1, 2), labels
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and go on with --resume") from error
