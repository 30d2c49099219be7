"""Image files sorted into one folder for each class: which there are, and which split each belongs to."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rp_models.data.decode import picture_header
from rp_models.data.errors import DataError
from rp_models.data.info import SPLITS, DatasetInfo
from rp_models.data.splits import of_name

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
_SUBFOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
_LARGEST = 224  # pixels; larger images of an unknown data set are reduced to these


@dataclass(frozen=True, slots=True)
class Listing:
    """Image files in a fixed order: names below `root`, and for each a label, which is a position in `classes`."""

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]

    def only(self, kept: Sequence[int]) -> "Listing":
        """Some of the files, by position."""
        names, labels = tuple(self.names[i] for i in kept), tuple(self.labels[i] for i in kept)
        return replace(self, names=names, labels=labels)


def list_class_folder(root: Path, split: str) -> Listing:
    """The files of one split of a class folder.

    Either `root` holds `train`, `validation` (or `val`) and `test` with a folder a class in each, or `root` holds the
    classes' folders themselves; then the hash of a file's name below `root` decides: about 80, 10 and 10 %, and "all"
    is there as well. Raises DataError if there are no classes or no images, or the split has no folder.
    """
    if not has_splits(root):
        every = list_images(root)
        kept = [number for number, name in enumerate(every.names) if split in ("all", of_name(name))]
        return every.only(kept)
    if split == "all":
        raise DataError(f"{root}: its images lie in folders for splits; take one of {', '.join(SPLITS)}")
    for name in _SUBFOLDERS[split]:
        if (root / name).is_dir():
            return list_images(root / name, classes_of(root / "train"))
    raise DataError(f"{root}: there is `train`, but no `{'` or `'.join(_SUBFOLDERS[split])}` for the {split} split")


def has_splits(root: Path) -> bool:
    """Whether `train` is a split and not a class: whether there are folders in it, and no images beside them."""
    train = root / "train"
    return train.is_dir() and bool(_folders(train)) and not _images(train)


def list_images(root: Path, classes: Sequence[str] | None = None) -> Listing:
    """All images of a folder with one sub-folder for each class, sorted by class and name.

    Raises DataError if it is no such folder, or its classes are not among `classes`, where those are given.
    """
    found = classes_of(root)
    expected = tuple(classes) if classes is not None else found
    if not set(found) <= set(expected):
        other = next(name for name in found if name not in expected)
        raise DataError(f"{root}: the class folder `{other}` is unknown in the training images")
    files = [(f"{name}/{file}", label) for label, name in enumerate(expected) for file in _images(root / name)]
    if not files:
        raise DataError(f"{root}: no images ({', '.join(ENDINGS)}) in the class folders")
    names, labels = zip(*files, strict=True)
    return Listing(root, expected, names, labels)


def classes_of(root: Path) -> tuple[str, ...]:
    """The names of the sub-folders, sorted. Raises DataError if there are none."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found = _folders(root)
    if not found:
        raise DataError(f"{root}: expected one sub-folder with images for each class, found none")
    return found


def describe_class_folder(root: Path) -> DatasetInfo:
    """The description of a class folder, from its file names and the header of each class's first image.

    Images are grey if all of these are. Their size is the smallest of these images' shorter sides, at most 224: other
    images are reduced and cropped to it. Mean and std are 0.5, which maps [0, 1] to [-1, 1]. Raises DataError if there
    are no classes or images, or they cannot be read.
    """
    listings = dict(_splits(root))
    train = listings["train"]
    if not train.names:  # of a few files, none may be for training
        train = list_class_folder(root, "all")
    first = {label: name for name, label in reversed(list(zip(train.names, train.labels, strict=True)))}
    headers = [_header(train.root / name) for name in first.values()]
    channels = 1 if all(grey for grey, *_ in headers) else 3
    return DatasetInfo(
        name=str(root),
        class_names=train.classes,
        channels=channels,
        image_size=min(_LARGEST, *(min(sides) for _, *sides in headers)),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        split_sizes={split: len(listing.names) for split, listing in listings.items()},
        source=f"the folder {root}",
    )


def _splits(root: Path) -> Iterator[tuple[str, Listing]]:
    """The splits that there are."""
    for split in SPLITS:
        try:
            yield split, list_class_folder(root, split)
        except DataError:
            if split == "train":
                raise


def _header(path: Path) -> tuple[bool, int, int]:
    """Whether an image is grey, its height and its width."""
    try:
        return picture_header(path.read_bytes())
    except (DataError, OSError) as error:
        raise DataError(f"{path}: no image that can be read ({error})") from error


def _folders(root: Path) -> tuple[str, ...]:
    """The names of the sub-folders that are not hidden, sorted."""
    with os.scandir(root) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def _images(folder: Path) -> list[str]:
    """The names of the image files in a folder, sorted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(ENDINGS)]
    return sorted(name for name in names if not name.startswith("."))  # macOS puts `._x.jpg` beside `x.jpg`
