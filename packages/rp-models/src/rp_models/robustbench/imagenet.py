"""RobustBench's 5,000 pictures of ImageNet's validation set, prepared as each entry takes them.

Source: Croce et al. 2021, arXiv:2010.09670, helper_files/imagenet_test_image_ids.txt.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from rp_models.data.catalog import CATALOG, describe
from rp_models.data.class_folder import Listing
from rp_models.data.decode import View
from rp_models.data.errors import DataError
from rp_models.data.folder_images import FolderImages
from rp_models.data.imagenet import validation_folder
from rp_models.data.info import DatasetInfo
from rp_models.data.shifted import picture_folder
from rp_models.data.shifts import Shift

COUNT = 5000
_LIST = Path(__file__).with_name("imagenet_5000.txt")
_PREPROCESSING = re.compile(r"(Bicubic)?(?:Res(\d+))?Crop(\d+)|Res(\d+)")


def imagenet_view(preprocessing: str) -> View:
    """What a preprocessing does to a picture.

    `preprocessing` is one of RobustBench's names or one like them: "Res256Crop224" (shorter side 256, bilinear, middle
    224), "BicubicRes256Crop224", "Crop288" (the middle of the picture as it is, black where that is smaller), "Res224"
    (squashed, bilinear). Raises DataError for another name.
    """
    match = _PREPROCESSING.fullmatch(preprocessing)
    if match is None:
        known = "Res256Crop224, BicubicRes256Crop224, Crop288 or Res224"
        raise DataError(f"unknown preprocessing {preprocessing!r}; expected one like {known}")
    bicubic, resize, crop, squash = match.groups()
    interpolation: Literal["bicubic", "bilinear"] = "bicubic" if bicubic else "bilinear"
    if squash:
        return View(size=int(squash), crop="squash", interpolation="bilinear", upright=False)
    if resize is None:
        return View(size=int(crop), crop="middle", upright=False)
    return View(size=int(crop), crop="resize", resize=int(resize), interpolation=interpolation, upright=False)


def imagenet_images(
    preprocessing: str = "Res256Crop224", count: int = COUNT, *, root: str | Path | None = None
) -> FolderImages:
    """The first `count` of RobustBench's 5,000 pictures in its order, with labels by class index.

    Pictures are decoded when a batch asks for them. `root`: the folder of data sets, ImageNet's own, or its validation
    pictures, sorted into the 1,000 synset folders or all in one folder. Raises DataError if the pictures are nowhere,
    one is missing, or the folder holds some of the synsets only.
    """
    view = imagenet_view(preprocessing)
    return _images(*validation_folder(root), view, count, CATALOG["imagenet"])


def corrupted_images(shift: Shift, count: int = COUNT, *, root: str | Path | None = None) -> FolderImages:
    """The same pictures as ImageNet-C or ImageNet-3DCC has them, of one corruption and severity; errors likewise."""
    info = describe(shift.name)
    return _images(*picture_folder(shift, info, root), count, info)


def _images(folder: Path, synsets: tuple[str, ...], view: View, count: int, info: DatasetInfo) -> FolderImages:
    """The first pictures of the list in a folder, below its synsets where it has any."""
    if not 1 <= count <= COUNT:
        raise DataError(f"RobustBench has {COUNT} pictures of ImageNet, got count={count}")
    numbers, labels = zip(*picture_list()[:count], strict=True)
    files = (f"ILSVRC2012_val_{number:08d}.JPEG" for number in numbers)
    names = tuple(f"{synsets[label]}/{file}" if synsets else file for file, label in zip(files, labels, strict=True))
    absent = next((name for name in names if not (folder / name).is_file()), None)
    if absent is not None:
        raise DataError(f"{folder}: no picture {absent}, one of RobustBench's {COUNT} of ImageNet's validation set")
    info = replace(info, image_size=view.size, split_sizes={"test": COUNT}, class_names=synsets or info.class_names)
    return FolderImages.of(Listing(folder, info.class_names, names, labels), info, view)


@cache
def picture_list() -> tuple[tuple[int, int], ...]:
    """Number and class index of the 5,000 pictures: number 293 is ILSVRC2012_val_00000293.JPEG."""
    lines = _LIST.read_text(encoding="utf-8").splitlines()
    return tuple((int(number), int(label)) for number, label in (line.split() for line in lines if line[0] != "#"))
