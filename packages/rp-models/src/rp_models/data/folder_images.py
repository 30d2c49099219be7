"""Images that stay in their files and are decoded when a batch asks for them, by several threads."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rp_models.data.augmentation import ResizedCrop
from rp_models.data.class_folder import Listing
from rp_models.data.crops import random_boxes
from rp_models.data.decode import View, crop_picture, picture_header, view_picture
from rp_models.data.errors import DataError
from rp_models.data.images import ImageSet, check_labels, positions, to_float
from rp_models.data.info import DatasetInfo
from rp_models.values import send

_MEMORY = 2**33  # bytes that `load` takes at most


class FolderImages:
    """Images in files, one numbering for all; decoding leaves Python's lock, so that threads are enough.

    `names` are below `root`; labels, int64 (n,), are on the CPU; batches come out on `device`. `workers` are the
    threads; None for as many as there are cores, at most 16.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Tensor,
        info: DatasetInfo,
        *,
        view: View,
        device: torch.device | str = "cpu",
        workers: int | None = None,
    ) -> None:
        if labels.dtype != torch.int64 or labels.shape != (len(names),):
            raise DataError(f"{info.name}: expected one int64 label for each of {len(names)} files")
        if (view.channels, view.size) != (info.channels, info.image_size):
            raise DataError(f"{info.name}: its images are {info.image_size} pixels, the view makes {view.size}")
        check_labels(labels, info, info.name)
        self.root, self.names, self.labels, self.info, self.view = root, names, labels, info, view
        self.device = torch.device(device)
        self._pool = ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1), "decode")

    @classmethod
    def of(cls, listing: Listing, info: DatasetInfo, view: View) -> Self:
        """The images of a listing."""
        return cls(listing.root, listing.names, torch.tensor(listing.labels, dtype=torch.int64), info, view=view)

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The images of some positions without chance, float32 (b, c, h, w) in [0, 1], and their labels.

        Raises DataError if a file is missing or cannot be decoded; the message names it.
        """
        chosen = positions(index, len(self))
        return to_float(send(self._bytes(chosen), self.device)), send(self.labels[chosen], self.device)

    def crops(
        self, index: Tensor | slice, crop: ResizedCrop, *, seed: int, purpose: str, draw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A random part of each image, decoded at the resolution that it needs, and the labels.

        Each image's draws belong to its number in `draw`, int64 (b,). Raises DataError if a file is missing or cannot
        be decoded; the message names it.
        """
        chosen = positions(index, len(self))
        files = chosen.tolist()
        raw, sizes = zip(*self._pool.map(self._opened, files), strict=True) if files else ((), ())
        boxes = random_boxes(
            torch.tensor([height for height, _ in sizes], dtype=torch.int64),
            torch.tensor([width for _, width in sizes], dtype=torch.int64),
            crop,
            seed=seed,
            purpose=purpose,
            index=draw.cpu(),
        ).tolist()
        parts = self._pool.map(self._cropped, files, raw, boxes)
        return to_float(send(self._stacked(parts, len(files)), self.device)), send(self.labels[chosen], self.device)

    def to(self, device: torch.device | str) -> "FolderImages":
        """The same set with batches on another device."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, device=torch.device(device))
        return other

    def load(self) -> ImageSet:
        """All images decoded into memory.

        Raises DataError if they would take more than 8 GiB, or one of them cannot be decoded.
        """
        size = len(self) * self.info.channels * self.info.image_size**2
        if size > _MEMORY:
            raise DataError(
                f"{self.info.name}: {len(self)} images are {size / 2**30:.0f} GiB in memory; use open_images"
            )
        return ImageSet(self._bytes(torch.arange(len(self))), self.labels, self.info).to(self.device)

    def _bytes(self, chosen: Tensor) -> Tensor:
        """The squares of some images, uint8 (b, c, h, w)."""
        return self._stacked(self._pool.map(self._viewed, chosen.tolist()), len(chosen))

    def _stacked(self, planes: Iterable[np.ndarray], count: int) -> Tensor:
        """Squares in one tensor."""
        size = self.info.image_size
        out = np.empty((count, self.info.channels, size, size), np.uint8)
        for position, square in enumerate(planes):
            out[position] = square
        return torch.from_numpy(out)

    def _read(self, position: int) -> bytes:
        """One file's bytes."""
        return (self.root / self.names[position]).read_bytes()

    def _square(self, raw: bytes) -> np.ndarray:
        """The square of a file's picture."""
        return view_picture(raw, self.view)

    def _viewed(self, position: int) -> np.ndarray:
        """One image's square."""
        with self._naming(position):
            return self._square(self._read(position))

    def _opened(self, position: int) -> tuple[bytes, tuple[int, int]]:
        """One file's bytes, and the height and width of the picture."""
        with self._naming(position):
            raw = self._read(position)
            return raw, picture_header(raw, upright=self.view.upright)[1:]

    def _cropped(self, position: int, raw: bytes, box: list[int]) -> np.ndarray:
        """One image's part."""
        with self._naming(position):
            return crop_picture(raw, (box[0], box[1], box[2], box[3]), self.view)

    @contextmanager
    def _naming(self, position: int) -> Iterator[None]:
        """Puts the file's name before what goes wrong with it."""
        try:
            yield
        except (DataError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{self.root / self.names[position]}: {reason}") from error
