"""Readers of shifted test sets, from the files that their authors publish."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rp_models.data.class_folder import classes_of, list_images
from rp_models.data.decode import View
from rp_models.data.errors import DataError
from rp_models.data.folder_images import FolderImages
from rp_models.data.images import ImageSet
from rp_models.data.info import DatasetInfo
from rp_models.data.places import Place
from rp_models.data.shifts import Shift

_EACH = 10_000  # images of one severity in CIFAR's files
_FOLDERS = {
    "cifar10-c": ("CIFAR-10-C", "cifar10-c"),
    "cifar100-c": ("CIFAR-100-C", "cifar100-c"),
    "cifar10.1": ("cifar10.1", "CIFAR-10.1/datasets", "CIFAR-10.1", "datasets", ""),
    "imagenet-c": ("ImageNet-C", "imagenet-c"),
    "imagenet-3dcc": ("ImageNet-3DCC", "imagenet-3dcc"),
    "imagenet-v2": ("imagenet-v2", "ImageNetV2", ""),
    "imagenet-a": ("imagenet-a", "ImageNet-A"),
    "imagenet-r": ("imagenet-r", "ImageNet-R"),
    "imagenet-sketch": ("sketch", "imagenet-sketch", "ImageNet-Sketch"),
}
_PUBLISHED = View(size=224, crop="resize", resize=256, interpolation="bilinear", upright=False)
_CORRUPTED = View(size=224, crop="squash", interpolation="bilinear", upright=False)  # they are of 224 pixels already


def open_shifted(shift: Shift, info: DatasetInfo, *, root: str | Path | None = None) -> ImageSet | FolderImages:
    """The images of a shifted test set, all of them; `info` is its own description.

    Raises DataError if the files are missing, or are not what they are called. `root`: the folder of data sets.
    """
    if shift.kind in ("cifar10-c", "cifar100-c"):
        return _cifar_corrupted(shift, info, root)
    if shift.kind == "cifar10.1":
        names = tuple(f"cifar10.1_{shift.part}_{what}.npy" for what in ("data", "labels"))
        folder = _place(shift).find(names[:1], root=root)
        images, labels = (_array(folder / name) for name in names)
        return _set(images, labels, info, folder / names[0])
    folder, synsets, view = picture_folder(shift, info, root)
    return FolderImages.of(list_images(folder, synsets), replace(info, class_names=synsets), view)


def _place(shift: Shift) -> Place:
    return Place(name=shift.kind, folders=_FOLDERS[shift.kind], advice="unpack its authors' archive there")


def _cifar_corrupted(shift: Shift, info: DatasetInfo, root: str | Path | None) -> ImageSet:
    """One severity of one corruption: rows of the file in order of severity, the labels of the first 10,000."""
    file = f"{shift.part}.npy"
    folder = _place(shift).find((file,), root=root)
    images, labels = _array(folder / file), _array(folder / "labels.npy")
    count = len(images) // 5
    if len(images) % 5 or len(labels) < count or len(images) > 5 * _EACH:
        raise DataError(
            f"{folder / file}: expected five severities of up to {_EACH} images and their labels, found "
            f"{len(images)} images and {len(labels)} labels"
        )
    first = count * (shift.severity - 1)
    return _set(images[first : first + count], labels[:count], info, folder / file)


def _array(path: Path) -> np.ndarray:
    """A file of numpy's, mapped; nothing in it is executed."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; fetch the file again") from error


def _set(images: np.ndarray, labels: np.ndarray, info: DatasetInfo, origin: Path) -> ImageSet:
    size = info.image_size
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{origin}: expected bytes (n, {size}, {size}, 3) and n labels, found {images.dtype} {images.shape} and "
            f"labels {labels.shape}"
        )
    rows = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return ImageSet(rows, torch.from_numpy(labels.astype(np.int64)), info)


def picture_folder(
    shift: Shift, info: DatasetInfo, root: str | Path | None = None
) -> tuple[Path, tuple[str, ...], View]:
    """The folder of a set of picture files, its folders in the order of the classes, and the pictures' view.

    Raises DataError as `open_shifted` does.
    """
    inside = {
        "imagenet-c": f"{shift.part}/{shift.severity}",
        "imagenet-3dcc": f"{shift.part}/{shift.severity}",
        "imagenet-v2": f"imagenetv2-{shift.part}-format-val",
    }.get(shift.kind, "")
    folder = _place(shift).find((inside or "n*",) if inside else ("n01440764", "n01498041", "n01443537"), root=root)
    folder = folder / inside
    found = classes_of(folder)
    if len(found) != info.num_classes:
        raise DataError(
            f"{folder}: expected {info.num_classes} folders of classes, found {len(found)}; labels are their "
            "positions, so that a part of them would be mislabelled"
        )
    if shift.kind == "imagenet-v2":  # folders are the classes' numbers, and "10" comes before "2" as a text
        found = tuple(sorted(found, key=_number))
        if found != tuple(map(str, range(len(found)))):
            raise DataError(f"{folder}: expected folders 0 to {len(found) - 1}, the numbers of the classes")
    return folder, found, _CORRUPTED if shift.severity else _PUBLISHED


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else -1
