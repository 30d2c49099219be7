"""ImageNet (ILSVRC 2012) in its usual layout: `train` and `val`, each with one folder for each of the 1,000 synsets.

Source: Russakovsky et al. 2015, arXiv:1409.0575.
"""

from collections import Counter
from pathlib import Path

from rp_models.data.class_folder import Listing, classes_of, list_images
from rp_models.data.errors import DataError
from rp_models.data.places import Place

CLASSES = 1000
_HELD_OUT = 10  # of each class's training images, the first by name, are validation; `val` is the test split
_PLACE = Place(
    name="imagenet",
    folders=("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", ""),
    advice="unpack ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into train/ and val/, one folder a synset",
)


def list_imagenet(split: str, *, root: str | Path | None = None) -> Listing:
    """The files of one split; the classes are the synsets in the order of their names, as everywhere.

    Raises DataError if the folders are nowhere or are not those of ImageNet. `split`: "test" is the official validation
    set; "validation" is ten training images of each class. `root`: the folder of data sets, or ImageNet's own.
    """
    folder = _PLACE.find(("train/n01440764", "val/n01440764", "validation/n01440764"), root=root)
    if split == "test":
        held = next((name for name in ("val", "validation") if (folder / name).is_dir()), "val")
        return list_images(folder / held, _synsets(folder / held))
    every = list_images(folder / "train", _synsets(folder / "train"))
    seen: Counter[int] = Counter()
    kept = []
    for number, label in enumerate(every.labels):
        if (seen[label] < _HELD_OUT) == (split == "validation"):
            kept.append(number)
        seen[label] += 1
    return every.only(kept)


def validation_folder(root: str | Path | None = None) -> tuple[Path, tuple[str, ...]]:
    """The folder of the official validation set and its 1,000 synsets in order; none if all pictures lie in it at once.

    `root` may also be that folder itself. Raises DataError if it is nowhere, or holds some of the synsets only: labels
    are positions among all of them.
    """
    if root is not None and (_is_flat(Path(root)) or any(Path(root).glob("n[0-9]*"))):
        folder = Path(root)
    else:
        found = _PLACE.find(("val", "validation"), root=root)
        folder = next(found / name for name in ("val", "validation") if (found / name).is_dir())
    return folder, () if _is_flat(folder) else _synsets(folder)


def _is_flat(folder: Path) -> bool:
    """Whether validation pictures lie in the folder itself."""
    return any(folder.glob("ILSVRC2012_val_*.JPEG"))


def _synsets(folder: Path) -> tuple[str, ...]:
    """The classes' folders, of which there must be a thousand."""
    found = classes_of(folder)
    if len(found) != CLASSES:
        raise DataError(
            f"{folder}: expected the {CLASSES} synset folders, found {len(found)}; a part of ImageNet is opened as a "
            f"class folder of its own, by its path"
        )
    return found
