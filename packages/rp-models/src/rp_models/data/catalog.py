"""What is known of each data set without reading it; importing this module does not import torch."""

import difflib
from dataclasses import dataclass, field

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """One data set's description: sizes, normalisation, conventional budgets, and where it comes from."""

    name: str
    class_names: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]  # per channel, of the training split in [0, 1]
    std: tuple[float, ...]
    eps: dict[str, float] = field(default_factory=dict)  # the field's usual radius per norm, in [0, 1] pixel units
    split_sizes: dict[str, int] = field(default_factory=dict)
    source: str = ""
    licence: str = ""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


CATALOG: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        name="digits",
        class_names=tuple("0123456789"),
        channels=1,
        image_size=8,
        mean=(0.3056,),
        std=(0.3764,),
        # No convention exists for 8x8 scans. 0.15 is 2.4 of their 16 grey levels: a standard classifier is as good as
        # helpless there, while people still read the perturbed digits.
        eps={"linf": 0.15},
        split_sizes={"train": 1297, "validation": 200, "test": 300},
        source="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "the 1,797 images that scikit-learn ships as load_digits",
        licence="CC BY 4.0",
    ),
    "fashion-mnist": DatasetInfo(
        name="fashion-mnist",
        class_names=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        channels=1,
        image_size=28,
        mean=(0.2860,),
        std=(0.3530,),
        eps={"linf": 0.1},
        split_sizes={"train": 58_976, "validation": 1024, "test": 10_000},
        source="Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
        licence="MIT",
    ),
}


def describe(name: str) -> DatasetInfo:
    """The description of a data set.

    Raises:
        ValueError: for an unknown name; the message offers the nearest ones.
    """
    if name not in CATALOG:
        near = difflib.get_close_matches(name, CATALOG, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(CATALOG)}."
        raise ValueError(f"unknown data set {name!r}; {hint}")
    return CATALOG[name]
