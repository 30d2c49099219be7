"""The images that `purify.py` reads and writes: a data set's split, an `.npz` in DM-AT's layout, or PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from recipes.purification import Purification
from rp_models.data import DatasetInfo, ImageSet, describe, load_images, read_synthetic, subset_index, write_synthetic
from rp_models.data.datasets import DataError
from torch import Tensor


class Pictures(NamedTuple):
    """Images and where they come from.

    Attributes:
        images: the images; labels are all 0 where there are none.
        numbers: int64 (n,), number of each image in its source; the noise of an image is that of its number.
        origin: what to call them.
        names: one name each if they are PNG files, else nothing.
    """

    images: ImageSet
    numbers: Tensor
    origin: str
    names: tuple[str, ...] = ()


def read_pictures(config: Purification) -> Pictures:
    """The images that the settings name.

    Raises:
        DataError: if files are missing, damaged, or not of the data set's size.
    """
    info = describe(config.data)
    if not config.input:
        images = load_images(config.data, config.split)
        return Pictures(*_chosen(images, config.images), f"{config.data} {config.split} split")
    if config.input[0].endswith(".npz"):
        images = read_synthetic(config.input[0], info).load()
        return Pictures(*_chosen(images, config.images), Path(config.input[0]).name)
    files = _png_files(config.input)[: config.images]
    pixels = torch.stack([_read_png(file, info) for file in files])
    images = ImageSet(pixels, torch.zeros(len(files), dtype=torch.int64), info)
    names = tuple(file.name for file in files)
    return Pictures(images, torch.arange(len(files)), f"{len(files)} PNG files", names)


def write_pictures(pixels: Tensor, pictures: Pictures, folder: Path) -> Path:
    """Write purified images: PNG files for PNG files, otherwise an `.npz` with the labels.

    Args:
        pixels: uint8 (n, c, h, w), in the order of `pictures`.
        pictures: what was purified.
        folder: of the run.

    Returns:
        The `.npz` file, or the folder of the PNG files.
    """
    if not pictures.names:
        write_synthetic(pixels, pictures.images.labels, folder / "purified.npz")
        return folder / "purified.npz"
    from PIL import Image

    target = folder / "purified"
    target.mkdir(exist_ok=True)
    for name, image in zip(pictures.names, pixels.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(target / name)
    return target


def _chosen(images: ImageSet, count: int | None) -> tuple[ImageSet, Tensor]:
    """The field's fixed draw of so many images, or all, with their numbers."""
    if len(images) == 0:
        raise DataError("there are no images to purify")
    index = subset_index(len(images), count or len(images))
    return ImageSet(images.images[index], images.labels[index], images.info), index


def _png_files(names: Sequence[str]) -> list[Path]:
    """The files named, and those in the folders named, in order."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        files += sorted(path.glob("*.png")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"no PNG files in {' '.join(names)}")
    if len({file.name for file in files}) < len(files):
        raise DataError("two of the PNG files have the same name; purify them in two runs")
    return files


def _read_png(path: Path, info: DatasetInfo) -> Tensor:
    """One picture as uint8 (c, h, w)."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            pixels = np.array(file.convert("L" if info.channels == 1 else "RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: expected a PNG file ({error})") from error
    height, width = pixels.shape[:2]
    if (height, width) != (info.image_size, info.image_size):
        raise DataError(
            f"{path} has {width}x{height} pixels, the images of {info.name} have {info.image_size}x{info.image_size}"
        )
    return torch.from_numpy(pixels.reshape(height, width, info.channels)).permute(2, 0, 1)
