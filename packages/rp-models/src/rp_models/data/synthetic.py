"""Synthetic images in DM-AT's file layout: `.npz` files with `image` (n, h, w, c) bytes and `label` (n,).

Sets of tens of millions of images come in several files and stay there: the files are mapped into memory, and a batch
reads its images alone. Source: Wang et al. 2023, arXiv:2302.04638 (the layout of the published sets).
"""

import glob
import mmap
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rp_models.data.errors import DataError
from rp_models.data.images import ImageSet, check_labels, positions, to_float
from rp_models.data.info import DatasetInfo
from rp_models.data.npz import Member, members, replacing
from rp_models.values import send

_READ = 2**14  # bytes of an image from which on it is read and not mapped: each page of a map is a fault of its own
_RESIDENT = 2**27  # bytes of mapped images after which the system may forget them
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.npz")


class SyntheticImages:
    """Images in one or several `.npz` files, numbered through in the order of the files, read when a batch needs them.

    `info` is the data set that they imitate; labels, int64 (n,), are on the CPU; batches come out on `device`.
    """

    def __init__(
        self, parts: Sequence[Member], labels: Tensor, info: DatasetInfo, *, device: torch.device | str = "cpu"
    ) -> None:
        self.labels, self.info, self.device = labels, info, torch.device(device)
        self._maps = [_scattered(part.map()) for part in parts]
        self._starts = np.cumsum([0, *(len(part) for part in self._maps)])
        self._touched = 0
        self._parts = list(parts)
        self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), "read")  # its threads start when they are needed

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images, uint8 (n, c, h, w), read into memory: for sets that are small."""
        return self._bytes(torch.arange(len(self)))

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The images of some positions, float32 (b, c, h, w) in [0, 1], and their labels."""
        chosen = positions(index, len(self))
        x = to_float(send(self._bytes(chosen), self.device))
        return x, send(self.labels[chosen], self.device)

    def to(self, device: torch.device | str) -> "SyntheticImages":
        """The same set with batches on another device; the files stay mapped."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, device=torch.device(device))
        return other

    def load(self) -> ImageSet:
        """The same images in memory, on the set's device: for sets that are small."""
        return ImageSet(self.images, self.labels, self.info).to(self.device)

    def _bytes(self, chosen: Tensor) -> Tensor:
        """Images as bytes (b, c, h, w); read in the order in which they lie in the files."""
        order = np.argsort(chosen.numpy(), kind="stable")
        wanted = chosen.numpy()[order]
        size, channels = self.info.image_size, self.info.channels
        out = np.empty((len(wanted), size, size, channels), np.uint8)
        edges = np.searchsorted(wanted, self._starts)
        ranges = zip(self._maps, self._starts, edges, edges[1:], strict=False)
        for number, (part, start, first, end) in enumerate(ranges):
            if size * size * channels >= _READ:
                self._read(self._parts[number], wanted[first:end] - start, out, order[first:end])
                continue
            out[order[first:end]] = part[wanted[first:end] - start]
        if size * size * channels < _READ:
            self._forget(len(wanted) * mmap.PAGESIZE)
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def _read(self, part: Member, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Rows of one file into places of `out`, by several threads, whose calls the system answers side by side."""
        size = out[0].nbytes
        with part.path.open("rb", buffering=0) as file:

            def read(row: int, place: int) -> None:
                got = os.preadv(file.fileno(), [memoryview(out[place])], (part.offset or 0) + row * size)
                if got != size:
                    raise DataError(f"{part.path}: the image at position {row} is cut off; fetch the file again")

            list(self._pool.map(read, rows.tolist(), places.tolist()))

    def _forget(self, touched: int) -> None:
        """Now and then gives the mapped pages back: the system's cache keeps them as long as there is room."""
        self._touched += touched
        if self._touched > _RESIDENT:
            self._touched = 0
            for part in self._maps:
                _advise(part, "MADV_DONTNEED")


def read_synthetic(paths: str | Path | Sequence[str | Path], info: DatasetInfo) -> SyntheticImages:
    """Open a synthetic set; its images stay in the files, its labels are read and checked.

    `paths` is an `.npz` file; a folder or a pattern with `*`, whose `.npz` files are taken in the order of the numbers
    in their names; or several of these, taken in the given order. Raises DataError if a file is missing, damaged or
    compressed, a part of a set is absent, or shapes, types or labels do not fit the data set.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [file for path in given for file in files_of(path, ".npz")]
    if not files:
        raise DataError("no files of synthetic images were given")
    found = [_checked(file, info) for file in files]
    labels = torch.empty(sum(label.shape[0] for _, label in found), dtype=torch.int64)
    start = 0
    for file, (_, label) in zip(files, found, strict=True):
        part = labels[start : start + label.shape[0]]
        part.numpy()[:] = label.map() if label.offset is not None else label.read()
        check_labels(part, info, file)
        start += len(part)
    return SyntheticImages([image for image, _ in found], labels, info)


def write_synthetic(images: Tensor, labels: Tensor, path: str | Path) -> None:
    """Write images, uint8 (n, c, h, w), and labels (n,) to an `.npz`, complete under its name or not at all.

    Raises ValueError if images and labels do not belong together; DataError if the file cannot be written, e.g. on a
    full disk; an older file is then unchanged.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"expected uint8 images (n, c, h, w) and labels (n,), got {images.dtype} {tuple(images.shape)} and "
            f"{tuple(labels.shape)}"
        )
    pixels = np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
    with replacing(Path(path)) as file:
        # uncompressed, so that a large set can be memory-mapped
        np.savez(file, image=pixels, label=labels.to("cpu", torch.int64).numpy())


def part_path(path: str | Path, number: int, count: int) -> Path:
    """The name of one part of a set, numbered from 0: `name-00002-of-00008.npz` for `name.npz`.

    Raises ValueError if there is no such part, or more than 100,000.
    """
    path = Path(path)
    if not 0 <= number < count <= 100_000:
        raise ValueError(f"there is no part {number} of {count}")
    return path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}.npz")


def files_of(path: str | Path, ending: str) -> list[Path]:
    """The files that a path, a folder or a pattern means, in the order of the numbers in their names.

    Raises DataError if there are none, or a part of a set is missing.
    """
    path = Path(path)
    if path.is_dir():
        found = list(path.glob(f"*{ending}"))
    elif any(sign in str(path) for sign in "*?[") and not path.exists():
        found = [Path(name) for name in glob.glob(str(path))]  # noqa: PTH207, a pattern may be absolute
    else:
        return [path]
    if not found:
        raise DataError(f"{path}: no {ending} files of synthetic images")
    _complete(found)
    return sorted(found, key=lambda file: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", file.name)])


def _complete(files: Sequence[Path]) -> None:
    """Whether all parts of each set are there, as far as their names tell how many there should be."""
    for match in filter(None, (_PART.fullmatch(file.name) for file in files)):
        parts = {file.name for file in files}
        for number in range(int(match[3])):
            name = f"{match[1]}-{number:05d}-of-{match[3]}.npz"
            if name not in parts:
                raise DataError(f"{files[0].parent}: the part {name} of the synthetic set is missing")


def _checked(path: Path, info: DatasetInfo) -> tuple[Member, Member]:
    """The arrays of images and labels of one file, whose headers fit the data set."""
    found = members(path)
    if not {"image", "label"} <= found.keys():
        raise DataError(f"{path}: expected an .npz with arrays `image` and `label`, found {', '.join(found) or 'none'}")
    image, label = found["image"], found["label"]
    expected = (info.image_size, info.image_size, info.channels)
    if image.dtype != np.uint8 or image.shape[1:] != expected:
        raise DataError(
            f"{path}: expected uint8 images (n, {', '.join(map(str, expected))}) for {info.name}, "
            f"got {image.dtype} {image.shape}"
        )
    if label.dtype.kind not in "iu" or label.shape != image.shape[:1]:
        raise DataError(
            f"{path}: expected one integer label for each of {image.shape[0]} images, got {label.dtype} {label.shape}"
        )
    if image.offset is None:
        image.map()  # tells how to rewrite a compressed file
    return image, label


def _scattered(values: np.ndarray) -> np.ndarray:
    """A mapped array, of which single rows will be read: the system need not read ahead."""
    _advise(values, "MADV_RANDOM")
    return values


def _advise(values: np.ndarray, advice: str) -> None:
    """Tell the system how a mapped array is used, where it listens to that."""
    mapped = getattr(values, "_mmap", None)
    if mapped is not None and hasattr(mmap, advice):
        mapped.madvise(getattr(mmap, advice))
