"""A data set of one's own in one `.npz`: images, labels, and perhaps the classes' names."""

from pathlib import Path

import numpy as np

from rp_models.data.errors import DataError
from rp_models.data.info import DatasetInfo
from rp_models.data.npz import Member, members
from rp_models.data.splits import of_one_file


def describe_npz(path: Path) -> DatasetInfo:
    """The description of an `.npz` data set, from its arrays' headers and its labels.

    The file holds `image` or `images`, bytes (n, h, w), (n, h, w, c) or (n, c, h, w) with square images of 1 or 3
    channels; `label` or `labels`, integers (n,); and perhaps `class_names` (k,). Mean and std are 0.5, which maps
    [0, 1] to [-1, 1]; there is no conventional radius. Raises DataError if the file is missing, damaged, or holds
    something else.
    """
    images, labels, names = _parts(path)
    values = _checked(labels, images)
    classes = tuple(map(str, names.read())) if names else tuple(map(str, range(int(values.max()) + 1)))
    channels = _channels(images)
    return DatasetInfo(
        name=str(path),
        class_names=classes,
        channels=channels,
        image_size=images.shape[2],
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        split_sizes={split: len(of_one_file(split, len(values))) for split in ("train", "validation", "test")},
        source=f"the file {path}",
    )


def read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, c, h, w) and labels (n,) of one split: 80, 10 and 10 % of one fixed shuffle, or all in their order.

    Raises DataError if the file is missing, damaged, or holds something else.
    """
    pixels, labels = read_npz_images(path)
    if labels is None:
        raise DataError(f"{path}: expected arrays `image` and `label` (or with s), found image alone")
    chosen = of_one_file(split, len(labels))
    return np.ascontiguousarray(pixels[chosen]), labels[chosen]


def read_npz_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """All images (n, c, h, w) of a file as `describe_npz` takes it, and its labels (n,) if it has any.

    Raises DataError if the file is missing, damaged, or holds something else.
    """
    images, labels, _ = _parts(path)
    values = None if labels is None else _checked(labels, images)
    channels = _channels(images)
    pixels = images.read()
    if pixels.ndim == 3:
        return pixels[:, None], values
    return pixels.transpose(0, 3, 1, 2) if pixels.shape[-1] == channels else pixels, values


def _parts(path: Path) -> tuple[Member, Member | None, Member | None]:
    """The arrays of images, of labels and of names, the last two if there are any."""
    found = members(path)
    images = found.get("image") or found.get("images")
    if images is None:
        raise DataError(f"{path}: expected arrays `image` and `label` (or with s), found {', '.join(found) or 'none'}")
    if images.dtype != np.uint8:
        raise DataError(f"{path}: expected images as bytes 0..255 (uint8), got {images.dtype}; convert them once")
    return images, found.get("label") or found.get("labels"), found.get("class_names")


def _checked(labels: Member | None, images: Member) -> np.ndarray:
    """The labels as int64, one for each image."""
    path = images.path
    if labels is None:
        raise DataError(f"{path}: expected arrays `image` and `label` (or with s), found {images.name} alone")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{path}: expected one label for each of {images.shape[0]} images, got {labels.dtype} {labels.shape}"
        )
    values = labels.read()
    if values.dtype.kind not in "iu" or len(values) == 0 or int(values.min()) < 0:
        raise DataError(f"{path}: expected labels 0, 1, ... (n,), got {values.dtype} {values.shape}")
    return values.astype(np.int64)


def _channels(images: Member) -> int:
    """The number of channels; a last axis of 1 or 3 wins over a second one."""
    shape = images.shape
    square = len(shape) >= 3 and shape[2] == shape[1]
    if len(shape) == 3 and square:
        return 1
    if len(shape) == 4 and square and shape[3] in (1, 3):
        return shape[3]
    if len(shape) == 4 and shape[2] == shape[3] and shape[1] in (1, 3):
        return shape[1]
    raise DataError(f"{images.path}: expected square images (n, h, w), (n, h, w, c) or (n, c, h, w), got {shape}")
