"""Settings of `evaluate.py --suite robustbench`; importing this does not import torch."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from rp_attacks.radii import Norm
from rp_models.data.shifts import corruptions as shift_corruptions
from rp_models.data.shifts import kinds_of
from rp_models.robustbench.entries import CLASSES, Entry, entries, resolve
from rp_models.settings import at_least, require

THREATS: dict[Norm, str] = {"linf": "Linf", "l2": "L2"}  # RobustBench's names


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustBenchSettings:
    """How the standard evaluation is run and what it is compared with."""

    # AutoAttack's own order of random numbers: its seed is --seed in every batch, and each part fills its batches from
    # all images still right. The verdicts are then those of AutoAttack(seed=...); all images are one block
    exact: bool = False
    batch_size: int = 32  # of these batches; 32 is that of RobustBench's benchmark()
    state: str | None = None  # an `aa_state` file of RobustBench's: its verdicts on the images, to be paired with ours
    preprocessing: str = "Res256Crop224"  # of ImageNet's pictures for a network that is no entry
    # the mean accuracy on corrupted images instead of attacks: "common", CIFAR-10-C, CIFAR-100-C or ImageNet-C; "3d",
    # ImageNet-3DCC; None: common for entries of the threat model corruptions
    corruptions: Literal["common", "3d"] | None = None

    def __post_init__(self) -> None:
        at_least(self, "robustbench.", batch_size=1)


def named_entry(model: str, data: str, norm: Norm) -> Entry:
    """The entry that `robustbench:NAME` means beside a data set and a norm.

    A data set that is none of RobustBench's says nothing, and neither does Linf, the default. Raises EntryError for a
    name that means no entry, or one whose network is not built here.
    """
    entry = resolve(model, data if data in CLASSES else None, THREATS[norm] if norm == "l2" else None)
    entry.check_built()
    return entry


def corrupted(data: str, corruptions: Literal["common", "3d"]) -> str:
    """The kind of corrupted images of a data set. Raises ValueError if RobustBench has none."""
    kind = data + {"common": "-c", "3d": "-3dcc"}[corruptions]
    known = [name for name in kinds_of(data) if shift_corruptions(name)]
    there = ", ".join(known) or "none"
    require(
        kind in known, f"RobustBench has no {corruptions} corruptions of {data}; of its corrupted sets there is {there}"
    )
    return kind


def usual_radius(data: str, norm: Norm) -> float | None:
    """The radius that most entries of a data set and norm have; None where there is no entry."""
    radii = Counter(entry.radius for entry in entries() if (entry.dataset, entry.norm) == (data, norm))
    return radii.most_common(1)[0][0] if radii else None
