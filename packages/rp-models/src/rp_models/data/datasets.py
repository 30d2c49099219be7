"""Real images with their labels, in the split that every part of the project uses."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files

import numpy as np
import torch
from torch import Tensor

from rp_models.data.catalog import SPLITS, DatasetInfo, describe
from rp_models.data.errors import DataError as DataError
from rp_models.data.fashion_mnist import read_fashion_mnist


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images kept as bytes, with labels and the data set's description.

    Attributes:
        images: uint8 tensor (n, channels, height, width).
        labels: int64 tensor (n,).
        info: what the data set is.
    """

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
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.info.num_classes:
            raise DataError(f"{self.info.name}: labels must be in 0..{self.info.num_classes - 1}")

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images as float32 in [0, 1], and labels, of the given positions."""
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


def subset_index(total: int, count: int, *, seed: int = 0) -> Tensor:
    """Which images a fixed random subset takes, drawn as the field draws it: `RandomState(seed).choice`.

    Args:
        total: images in the whole set.
        count: images to take, without replacement; all in their order if there are not more.
        seed: of the draw.

    Returns:
        int64 tensor (min(count, total),) of positions.
    """
    if count >= total:
        return torch.arange(total)
    return torch.from_numpy(np.random.RandomState(seed).choice(total, count, replace=False))


def subset(images: ImageSet, count: int, *, seed: int = 0) -> ImageSet:
    """The fixed random subset of `subset_index`, as a set of its own."""
    if count >= len(images):
        return images
    chosen = subset_index(len(images), count, seed=seed).to(images.images.device)
    return ImageSet(images.images[chosen], images.labels[chosen], images.info)


def load_images(name: str, split: str) -> ImageSet:
    """Read one split of a data set.

    Args:
        name: a name of the catalogue, e.g. "digits".
        split: "train", "validation" or "test"; the three are disjoint and fixed for ever.

    Raises:
        ValueError: for an unknown name or split.
        DataError: if the files are damaged.
    """
    info = describe(name)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    images, labels = _READERS[name](split)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), info)


def _read_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The embedded scans; grey levels 0..16 are stretched to 0..255."""
    with as_file(files("rp_models.data") / "digits.npz") as path, np.load(path, allow_pickle=False) as file:
        levels, labels = file["image"], file["label"].astype(np.int64)
    images = np.rint(levels.astype(np.float64) * (255.0 / 16.0)).astype(np.uint8)[:, None]
    # one fixed shuffle, because the scans are stored writer by writer
    order = np.random.RandomState(0).permutation(len(images))
    sizes = describe("digits").split_sizes
    start = {"test": 0, "validation": sizes["test"], "train": sizes["test"] + sizes["validation"]}[split]
    chosen = order[start : start + sizes[split]]
    return images[chosen], labels[chosen]


_READERS: dict[str, Callable[[str], tuple[np.ndarray, np.ndarray]]] = {
    "digits": _read_digits,
    "fashion-mnist": read_fashion_mnist,
}
