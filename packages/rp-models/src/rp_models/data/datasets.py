"""Real images with their labels, in the split that every part of the project uses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rp_models.data.catalog import CATALOG, describe
from rp_models.data.cifar import read_cifar10, read_cifar100
from rp_models.data.class_folder import Listing, has_splits, list_class_folder
from rp_models.data.decode import View
from rp_models.data.digits import read_digits
from rp_models.data.errors import DataError as DataError
from rp_models.data.fashion_mnist import read_fashion_mnist
from rp_models.data.folder_images import FolderImages
from rp_models.data.imagenet import list_imagenet
from rp_models.data.images import Images as Images
from rp_models.data.images import ImageSet as ImageSet
from rp_models.data.images import to_bytes as to_bytes
from rp_models.data.images import to_float as to_float
from rp_models.data.info import SPLITS, DatasetInfo
from rp_models.data.npz_set import read_npz
from rp_models.data.shifted import open_shifted
from rp_models.data.shifts import find_shift, is_shift
from rp_models.data.subsets import subset as subset
from rp_models.data.subsets import subset_index as subset_index
from rp_models.data.svhn import read_svhn

_READERS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "svhn": read_svhn,
}
_IMAGENET_VIEWS = {  # the few pictures on their side stay so: all published figures are of them as they are stored
    "imagenet": View(size=224, crop="resize", resize=256, upright=False),
    "imagenet-256": View(size=256, crop="adm", upright=False),
}


def load_images(name: str, split: str, *, root: str | Path | None = None, download: bool = False) -> ImageSet:
    """Read one split of a data set into memory.

    Raises ValueError for an unknown name or split; DataError if the files are missing or damaged, or the images are
    none, or too many for the memory.

    Args:
        name: a name of the catalogue, e.g. "digits"; or the path of an `.npz` or of a class folder.
        split: "train", "validation" or "test"; the three are disjoint and fixed for ever. "all" for every image of an
            `.npz`, or of a class folder without folders for splits.
        root: the folder that holds data sets of the catalogue; None takes `$RP_DATA`, `./data`, and Debian's folder.
        download: let torchvision download missing files into that folder; `RP_DOWNLOAD=1` has the same effect.
    """
    images = open_images(name, split, root=root, download=download)
    _check_some(images, name, split)
    return images.load() if isinstance(images, FolderImages) else images


def open_images(
    name: str, split: str, *, root: str | Path | None = None, download: bool = False
) -> ImageSet | FolderImages:
    """One split of a data set, in memory, or decoded batch by batch where the images are single files.

    Arguments and errors as for `load_images`.
    """
    info = describe(name)
    if is_shift(name):
        if split != "test":
            raise ValueError(f"{name} is a test set; it has no split {split!r}")
        return open_shifted(find_shift(name), info, root=root)
    if split not in SPLITS and (split != "all" or name in CATALOG):
        also = "" if name in CATALOG else ", all"
        raise ValueError(f"unknown split {split!r} of {name}; expected one of {', '.join(SPLITS)}{also}")
    if name in _IMAGENET_VIEWS:
        return _folder_images(list_imagenet(split, root=root), info, _IMAGENET_VIEWS[name])
    if name not in CATALOG and not name.endswith(".npz"):
        listing = list_class_folder(Path(name), split)
        return _folder_images(listing, info, View(size=info.image_size, channels=info.channels))
    if name in CATALOG:
        images, labels = _READERS[name](split, root=root, download=download)
    else:
        images, labels = read_npz(Path(name), split)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), info)


def open_subset(
    name: str, split: str, count: int | None, *, device: torch.device, root: str | Path | None = None
) -> tuple[ImageSet, Tensor]:
    """The field's fixed draw of `count` images of a split (all for None), in memory, and their positions (n,) in it.

    Only these are decoded where the images are single files. Errors as for `load_images`.
    """
    images = open_images(name, split, root=root)
    _check_some(images, name, split)
    total = len(images)
    if count is not None and count < total:
        chosen = subset(images, count)
    else:
        chosen = images.load() if isinstance(images, FolderImages) else images
    return chosen.to(device), subset_index(total, count or total).to(device)


def open_judged(
    name: str, split: str, count: int | None, *, device: torch.device, root: str | Path | None = None
) -> tuple[Images, Tensor]:
    """`open_subset` for work that goes batch by batch: all images of a folder are decoded when they are asked for."""
    images = open_images(name, split, root=root) if count is None else None
    if isinstance(images, FolderImages):
        _check_some(images, name, split)
        return images.to(device), torch.arange(len(images), device=device)
    return open_subset(name, split, count, device=device, root=root)


def default_split(name: str) -> str:
    """The split to judge a model on where none is named: "test", or "all" of a file or folder without splits.

    Of such a file the other splits exist as well: whoever trains on its "train" split has to judge on "test".
    """
    if name in CATALOG or is_shift(name):
        return "test"
    return "all" if name.endswith(".npz") or not has_splits(Path(name)) else "test"


def _check_some(images: ImageSet | FolderImages, name: str, split: str) -> None:
    """Refuse a split of a small file that no image fell into."""
    if len(images) == 0:
        raise DataError(f'{name}: of its few images none is for the {split} split; take them all with "all"')


def _folder_images(listing: Listing, info: DatasetInfo, view: View) -> FolderImages:
    """A listing's images; the folders tell the classes' names."""
    return FolderImages.of(listing, replace(info, class_names=listing.classes), view)
