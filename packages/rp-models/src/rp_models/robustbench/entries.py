"""The entries of RobustBench's model zoo: network, normalisation, preprocessing, files and published figures of each.

A name belongs to a data set and a threat model; the same name may stand under several of them. The table is of
RobustBench of 2025-03-31 (Croce et al. 2021, arXiv:2010.09670); importing this module does not import torch.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

PREFIX = "robustbench:"
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
_THREATS = {"Linf": "linf", "L2": "l2", "corruptions": None}
_TABLE = Path(__file__).with_name("entries.json")


class EntryError(ValueError):
    """A name is no entry of RobustBench, or one whose network is not built here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the model zoo."""

    dataset: str  # "cifar10", "cifar100" or "imagenet"
    threat: str  # "Linf", "L2" or "corruptions"
    name: str
    clean: float  # published accuracy on clean images, per cent
    robust: float  # the lowest published accuracy under attack within `eps`, or on corrupted images, per cent
    mce: float | None = None  # of ImageNet-C, in hundredths: the errors over AlexNet's, averaged
    robust_3d: float | None = None  # accuracy on ImageNet-3DCC, per cent
    mce_3d: float | None = None  # the mCE of ImageNet-3DCC
    autoattack: float | None = None  # AutoAttack's, where another attack has found less
    eps: str | None = None  # as RobustBench writes it, e.g. "8/255"; None for corruptions
    passes: int = 1  # forward passes for one prediction
    extra_data: bool = False  # whether it was trained on more than the data set
    network: str = ""  # name in the zoo
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the network, beside `num_classes`
    parameters: int = 0
    keys: str = ""  # digest of the state dict's keys and shapes, see `rp_models.robustbench.layouts.digest`
    preprocessing: str | None = None  # of ImageNet's pictures, see `rp_models.robustbench.imagenet`
    file: str | None = None  # its name where torch.hub keeps it; None for RobustBench's own folders only
    drive: tuple[str, ...] = ()  # Google Drive's numbers of the files
    key: str | None = None  # of the weights within the file
    constants: str | None = None  # "file" where only the file tells mean and std
    missing: str | None = None  # why its network is not built here

    @property
    def num_classes(self) -> int:
        """The number of classes of its data set."""
        return CLASSES[self.dataset]

    @property
    def norm(self) -> str | None:
        """The attack's norm, "linf" or "l2"; None for corruptions."""
        return _THREATS[self.threat]

    @property
    def radius(self) -> float | None:
        """`eps` as a number in [0, 1] pixel units."""
        return None if self.eps is None else float(Fraction(self.eps))

    @property
    def title(self) -> str:
        """Name, data set and threat model, for messages."""
        return f"{self.name} ({self.dataset}, {self.threat})"

    @property
    def spec(self) -> str:
        """The name that means this entry wherever a model is named."""
        return f"{PREFIX}{self.dataset}/{self.threat}/{self.name}"

    @property
    def published(self) -> dict[str, Any]:
        """What RobustBench says of it, for settings and result files; accuracies in per cent."""
        names = ("dataset", "threat", "eps", "clean", "robust", "autoattack", "passes", "extra_data", "preprocessing")
        corrupted = ("mce", "robust_3d", "mce_3d") if self.mce is not None else ()
        return {name: getattr(self, name) for name in (*names, *corrupted)}

    @property
    def parts(self) -> int:
        """The number of its files."""
        return int(self.arguments.get("count", 1))

    def check_built(self) -> None:
        """Raises EntryError if the network is not built here."""
        if self.missing:
            raise EntryError(f"{self.title} cannot be built: {self.missing}")

    def build(self) -> "nn.Module":
        """The network with fresh weights, in train mode. Raises EntryError if it is not built here."""
        from rp_models import zoo

        self.check_built()
        return zoo.build_entry(self.network, num_classes=self.num_classes, **self.arguments)


@cache
def entries() -> tuple[Entry, ...]:
    """All entries with weights, in RobustBench's order."""
    lines = json.loads(_TABLE.read_text(encoding="utf-8"))
    return tuple(Entry(**line | {"drive": tuple(line.get("drive", ()))}) for line in lines)


def find_entry(name: str, dataset: str = "cifar10", threat: str = "Linf") -> Entry:
    """The entry of that name. `threat`: "corruptions_3d" means "corruptions", as in RobustBench.

    Raises EntryError for an unknown data set, threat model or name; the message offers the nearest ones, or says where
    the name stands.
    """
    threat = threat.removesuffix("_3d")
    for kind, value, known in (("data set", dataset, CLASSES), ("threat model", threat, _THREATS)):
        if value not in known:
            raise EntryError(f"RobustBench has no {kind} {value!r}; it has {', '.join(known)}")
    group = {entry.name: entry for entry in entries() if (entry.dataset, entry.threat) == (dataset, threat)}
    if name in group:
        return group[name]
    others = [f"{entry.dataset} {entry.threat}" for entry in entries() if entry.name == name]
    if others:
        raise EntryError(f"RobustBench has {name} for {', '.join(others)}, not for {dataset} {threat}")
    raise EntryError(f"RobustBench has no {name!r} for {dataset} {threat}; {_near(name, list(group))}")


def is_spec(name: str) -> bool:
    """Whether a model's name means an entry: `robustbench:NAME`."""
    return name.startswith(PREFIX)


def resolve(spec: str, dataset: str | None = None, threat: str | None = None) -> Entry:
    """The entry that `robustbench:[DATASET/][THREAT/]NAME` means.

    What the name leaves open is taken from `dataset` and `threat`, e.g. of the images at hand; then, if the name stands
    in several places, from RobustBench's own defaults, cifar10 and Linf. Raises EntryError for a name that means no
    entry, or still several.
    """
    *places, name = spec.removeprefix(PREFIX).split("/")
    for place in places:
        if place in CLASSES:
            dataset = place
        elif place.removesuffix("_3d") in _THREATS:
            threat = place.removesuffix("_3d")
        else:
            raise EntryError(
                f"{spec}: {place!r} is neither a data set ({', '.join(CLASSES)}) nor a threat model "
                f"({', '.join(_THREATS)}); expected {PREFIX}[DATASET/][THREAT/]NAME"
            )
    named = [entry for entry in entries() if entry.name == name]
    fitting = [e for e in named if dataset in (None, e.dataset) and threat in (None, e.threat)]
    if len(fitting) == 1:
        return fitting[0]
    if not named:
        raise EntryError(f"RobustBench has no {name!r}; {_near(name, sorted({e.name for e in entries()}))}")
    chosen = [e for e in fitting if (e.dataset, e.threat) == (dataset or "cifar10", threat or "Linf")]
    if not chosen:
        raise EntryError(f"{spec}: say which one, {' or '.join(entry.spec for entry in fitting or named)}")
    return chosen[0]


def _near(name: str, names: list[str]) -> str:
    """A hint at names that are like this one."""
    lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(lower[key] for key in near)}?" if near else f"it has {', '.join(names)}"
