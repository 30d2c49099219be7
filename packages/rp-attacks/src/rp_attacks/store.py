"""The folder of an evaluation: one file for each attack and block of images, written whole or not at all."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rp_attacks.identity import alike
from rp_attacks.record import Record

Pixels = Literal["float", "uint8"]


class Store:
    """Records and images of an evaluation that can be interrupted, resumed, and shared by processes.

    Layout: `problem.json`, and `<stage>/block-<number>.npz` with the record's arrays and the images.
    """

    def __init__(self, folder: Path | None, problem: Mapping[str, Any]) -> None:
        self.folder, self.problem = folder, problem
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "problem.json"
        if path.exists():
            before = json.loads(path.read_text())
            changed = sorted(key for key in {*before, *problem} if not alike(before.get(key), problem.get(key)))
            if changed:
                raise ValueError(
                    f"{folder} holds an evaluation of another problem ({', '.join(changed)} differ); "
                    "use another folder, or delete this one"
                )
            return
        _write(path, json.dumps(problem, indent=1, sort_keys=True).encode())

    def load(self, stage: str, block: int) -> tuple[Record, npt.NDArray[Any]] | None:
        """Record and images of one block, or None where it was not done yet."""
        path = self._path(stage, block)
        if path is None or not path.exists():
            return None
        return _read(path)

    def save(self, stage: str, block: int, record: Record, images: npt.NDArray[Any]) -> None:
        """Write one block; a reader sees all of it or nothing."""
        path = self._path(stage, block)
        if path is None:
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(file, images=images, **{f.name: getattr(record, f.name) for f in fields(Record)})
        temporary.replace(path)

    def partial(self, stage: str, block: int) -> Path | None:
        """The folder of what is not finished of one block; it goes when the block is done."""
        return None if self.folder is None else self.folder / stage / f"unfinished-{block:05d}"

    def _path(self, stage: str, block: int) -> Path | None:
        return None if self.folder is None else self.folder / stage / f"block-{block:05d}.npz"


def usual_block_size(folder: Path | None, images: int, processes: int) -> int:
    """That of the evaluation in the folder; else at most 128 images, and so few that each process has a block."""
    path = None if folder is None else folder / "problem.json"
    if path is not None and path.exists():
        return int(json.loads(path.read_text())["block_size"])
    return max(min(128, -(-images // processes)), 1)


def load_images(folder: str | Path, stage: str) -> Tensor:
    """The adversarial images that an evaluation saved for one attack, in [0, 1], in the order of its images.

    Returns:
        Float32 tensor (n, c, h, w).
    """
    parts = []
    for file in _blocks(Path(folder), stage):
        with np.load(file, allow_pickle=False) as data:
            parts.append(from_pixels(data["images"]))
    return torch.cat(parts)


def load_record(folder: str | Path, stage: str) -> Record:
    """The record that an evaluation saved for one attack, or for "clean", in the order of its images."""
    return Record.join([_read(file)[0] for file in _blocks(Path(folder), stage)])


def _blocks(folder: Path, stage: str) -> list[Path]:
    """The files of a stage in their order. Raises FileNotFoundError if there is none."""
    files = sorted((folder / stage).glob("block-*.npz"))
    if not files:
        known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        raise FileNotFoundError(f"{folder} holds no images of {stage!r}; it holds {', '.join(known) or 'nothing'}")
    return files


def _read(file: Path) -> tuple[Record, npt.NDArray[Any]]:
    """Record and images of one block."""
    with np.load(file, allow_pickle=False) as data:
        return Record(**{f.name: data[f.name] for f in fields(Record)}), data["images"]


def to_pixels(images: Tensor, pixels: Pixels) -> npt.NDArray[Any]:
    """Images as they are stored: float32, or bytes, which images on the 8-bit grid lose nothing by."""
    values = images.detach().cpu().numpy()
    return np.rint(values * 255).astype(np.uint8) if pixels == "uint8" else values.astype(np.float32)


def from_pixels(stored: npt.NDArray[Any]) -> Tensor:
    """Stored images as float32 in [0, 1]."""
    return torch.from_numpy(stored.astype(np.float32) / 255 if stored.dtype == np.uint8 else stored)


def check_bytes(x: Tensor, norm: str, eps: float) -> None:
    """Refuse images that no file of bytes holds, and a ball in which no other such image lies.

    Raises:
        ValueError: with the fix.
    """
    if ((x * 255).round() / 255 - x).abs().max() > 1e-4:
        raise ValueError("pixels='uint8' needs clean images whose values are multiples of 1/255; use pixels='float'")
    if 0 < eps * (1 + 1e-5) < 1 / 255:
        raise ValueError(
            f"pixels='uint8' with {norm} eps {eps * 255:.3g}/255: no other image of bytes lies in this ball, so that "
            "nothing would be attacked; use pixels='float', or an eps of at least 1/255"
        )


def on_byte_grid(x_adv: Tensor, x: Tensor) -> Tensor:
    """The image of 8-bit pixels next to x_adv, on x's side, so that it stays in x's ball.

    x must hold multiples of 1/255 (see `check_bytes`).
    """
    steps = ((x_adv - x) * 255 * (1 + 1e-5)).trunc()  # a step of 8/255 is 7.9999998 in float32
    return ((x * 255).round() + steps) / 255


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
