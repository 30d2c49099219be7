"""What training and evaluation ask of a set of images, and the set that lies in memory."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rp_models.data.errors import DataError
from rp_models.data.info import DatasetInfo
from rp_models.values import send


class Images(Protocol):
    """A numbered set of labelled images, in memory or not."""

    @property
    def info(self) -> DatasetInfo:
        """What the data set is."""

    @property
    def labels(self) -> Tensor:
        """All labels, int64 (n,), on the CPU or on the set's device."""

    @property
    def device(self) -> torch.device:
        """Where batches come out."""

    def __len__(self) -> int:
        """The number of images."""

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The images of some positions, float32 (b, c, h, w) in [0, 1], and their labels, int64 (b,)."""

    def to(self, device: torch.device | str) -> "Images":
        """The same set with batches on another device."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images, uint8 (n, c, h, w), on the device where they are used, with labels, int64 (n,), and a description."""

    images: Tensor
    labels: Tensor
    info: DatasetInfo

    def __post_init__(self) -> None:
        expected = (self.info.channels, self.info.image_size, self.info.image_size)
        if self.images.dtype != torch.uint8 or tuple(self.images.shape[1:]) != expected:
            raise DataError(
                f"{self.info.name}: expected uint8 images (n, {', '.join(map(str, expected))}), "
                f"got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{self.info.name}: expected one int64 label for each of {len(self.images)} images, "
                f"got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        check_labels(self.labels, self.info, self.info.name)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the images lie and batches come out."""
        return self.images.device

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images as float32 in [0, 1], and labels, of the given positions; of these on the CPU no GPU is waited for."""
        if isinstance(index, Tensor) and index.device != self.device:
            index = send(index, self.device)
        return to_float(self.images[index]), self.labels[index]

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on another device; small sets live where they are used."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.info)


def to_float(images: Tensor) -> Tensor:
    """Bytes 0..255 to float32 in [0, 1]."""
    return images.to(torch.float32) / 255.0


def to_bytes(images: Tensor) -> Tensor:
    """Floats in [0, 1] to the nearest bytes 0..255; values outside are clipped."""
    return (images * 255.0).round().clamp(0.0, 255.0).to(torch.uint8)


def positions(index: Tensor | slice, count: int) -> Tensor:
    """The positions that an index means, int64 on the CPU. Raises IndexError if one of them is not in 0..count-1."""
    if isinstance(index, slice):
        return torch.arange(count)[index]
    if index.dtype == torch.bool:
        index = index.nonzero().flatten()
    index = index.to("cpu", torch.int64)
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise IndexError(f"positions must be in 0..{count - 1}, got {int(index.min())}..{int(index.max())}")
    return index


def check_labels(labels: Tensor, info: DatasetInfo, origin: object) -> None:
    """Whether all labels are classes of the data set. Raises DataError if one is not."""
    if len(labels):
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < info.num_classes:
            raise DataError(f"{origin}: labels must be in 0..{info.num_classes - 1}, found {low}..{high}")
