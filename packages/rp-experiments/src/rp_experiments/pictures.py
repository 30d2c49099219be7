"""What `purify.py` reads and writes: a data set's split, an `.npz` in DM-AT's layout, or PNG and JPEG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rp_models.data import DatasetInfo, ImageSet, describe, subset_index, write_synthetic
from rp_models.data.datasets import DataError, open_subset
from rp_models.data.decode import read_picture
from rp_models.data.npz import replacing
from rp_models.data.npz_set import read_npz_images
from torch import Tensor

from rp_experiments.recipes.purification import Purification

_SUFFIXES = (".png", ".jpg", ".jpeg")


class Pictures(NamedTuple):
    """Images and where they come from.

    Attributes:
        images: the images; labels are all 0 where there are none.
        numbers: int64 (n,), number of each image in its source; the noise of an image is that of its number.
        origin: what to call them.
        names: one name each, under which they are written, if they are files of their own; else nothing.
        labelled: whether the labels mean anything.
    """

    images: ImageSet
    numbers: Tensor
    origin: str
    names: tuple[str, ...] = ()
    labelled: bool = True


def read_pictures(config: Purification, *, root: Path | None = None) -> Pictures:
    """The images that the settings name.

    Args:
        config: of the purification.
        root: folder of the data sets; None for the usual places.

    Raises:
        DataError: if files are missing, damaged, or not of the data set's size, or an accuracy is asked for without
            labels.
    """
    info = describe(config.data)
    if not config.input:
        chosen = open_subset(config.data, config.split, config.images, device=torch.device("cpu"), root=root)
        return Pictures(*chosen, f"{config.data} {config.split} split")
    if config.input[0].endswith(".npz"):
        path = Path(config.input[0])
        images, labelled = _read_npz(path, info)
        if config.classifier and not labelled:
            raise DataError(f"{path} has no array `label`, so there is no accuracy; leave out --classifier")
        return Pictures(*_chosen(images, config.images), path.name, labelled=labelled)
    files = _picture_files(config.input)[: config.images]
    pixels = torch.stack([_read_picture(file, info) for file in files])
    names = tuple(f"{file.stem}.png" for file in files)
    return Pictures(_unlabelled(pixels, info), torch.arange(len(files)), f"{len(files)} picture files", names, False)


def write_pictures(pixels: Tensor, pictures: Pictures, folder: Path) -> Path:
    """Write purified images: PNG files for files, otherwise an `.npz`, with labels if there are any.

    PNG for JPEG files as well, whose compression would change what purification has left.

    Args:
        pixels: uint8 (n, c, h, w), in the order of `pictures`.
        pictures: what was purified.
        folder: of the run.

    Returns:
        The `.npz` file, or the folder of the PNG files.
    """
    arrays = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
    if not pictures.names:
        target = folder / "purified.npz"
        if pictures.labelled:
            write_synthetic(pixels, pictures.images.labels, target)
        else:
            with replacing(target) as file:
                np.savez(file, image=arrays)
        return target
    from PIL import Image

    target = folder / "purified"
    target.mkdir(exist_ok=True)
    for name, image in zip(pictures.names, arrays, strict=True):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(target / name)
    return target


def _chosen(images: ImageSet, count: int | None) -> tuple[ImageSet, Tensor]:
    """The field's fixed draw of so many images, or all, with their numbers."""
    if len(images) == 0:
        raise DataError("there are no images to purify")
    index = subset_index(len(images), count or len(images))
    return ImageSet(images.images[index], images.labels[index], images.info), index


def _read_npz(path: Path, info: DatasetInfo) -> tuple[ImageSet, bool]:
    """The images of an `.npz`, and whether it has labels."""
    pixels, labels = read_npz_images(path)
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    if labels is None:
        return _unlabelled(images, info), False
    return ImageSet(images, torch.from_numpy(labels), info), True


def _unlabelled(pixels: Tensor, info: DatasetInfo) -> ImageSet:
    return ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), info)


def _picture_files(names: Sequence[str]) -> list[Path]:
    """The files named, and those in the folders named, in order."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        files += sorted(file for file in path.iterdir() if _is_picture(file)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"no PNG or JPEG files in {' '.join(names)}")
    if len({file.stem for file in files}) < len(files):
        raise DataError("two of the files have the same name; purify them in two runs")
    return files


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES


def _read_picture(path: Path, info: DatasetInfo) -> Tensor:
    """One picture as uint8 (c, h, w)."""
    pixels = read_picture(path, info.channels)
    height, width = pixels.shape[1:]
    if (height, width) != (info.image_size, info.image_size):
        raise DataError(
            f"{path} has {width}x{height} pixels, the images of {info.name} have {info.image_size}x{info.image_size}; "
            "scale it first"
        )
    return torch.from_numpy(pixels)
