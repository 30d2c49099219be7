"""Images in numbered files: which numbers lie in which file, and what lies in a file."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rp_models.data.errors import DataError
from rp_models.data.synthetic import part_path


@dataclass(frozen=True)
class ShardPlan:
    """How numbered images are cut into files."""

    total: int  # images in all
    size: int  # images in a file, but for the last
    folder: Path  # of the files
    stem: str  # what their names begin with

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
        return part_path(self.folder / f"{self.stem}.npz", shard, len(self))

    @property
    def paths(self) -> list[Path]:
        """All files, in order."""
        return [self.path(shard) for shard in range(len(self))]


def read_shard(path: Path) -> tuple[Tensor, Tensor]:
    """Images, uint8 (n, c, h, w), and labels, int64 (n,), of a file, in memory.

    Raises DataError if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = torch.from_numpy(file["image"]), torch.from_numpy(file["label"])
        if images.dim() != 4 or labels.shape != images.shape[:1]:
            raise ValueError(f"images {tuple(images.shape)}, labels {tuple(labels.shape)}")
        return images.permute(0, 3, 1, 2), labels
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and go on with --resume") from error
