"""Data sets that shift another one: corruptions, new test sets, other styles. Importing this does not import torch.

Sources: Hendrycks & Dietterich 2019, arXiv:1903.12261 (-C); Kar et al. 2022, arXiv:2203.01441 (-3DCC); Recht et al.
2018, arXiv:1806.00451 (CIFAR-10.1), and 2019, arXiv:1902.10811 (V2); Hendrycks et al. 2021, arXiv:1907.07174 (A), and
arXiv:2006.16241 (R); Wang et al. 2019, arXiv:1905.13549 (Sketch).
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_ROWS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("shifts.toml").read_text("utf-8"))
ALEXNET: Mapping[str, float] = _ROWS.pop("alexnet")
"""AlexNet's mean error over the five severities of each corruption of ImageNet-C, which the mCE divides by."""
SEVERITIES = (1, 2, 3, 4, 5)


class Shift(NamedTuple):
    """One test set."""

    kind: str  # cifar10-c, imagenet-v2, ...
    base: str  # the data set whose classes it has
    part: str = ""  # corruption, or version
    severity: int = 0  # of a corruption; 0 where there is none

    @property
    def name(self) -> str:
        """As it is named everywhere: `cifar10-c/fog/3`."""
        return "/".join([self.kind, *filter(None, [self.part, str(self.severity or "")])])

    @property
    def classes(self) -> tuple[int, ...]:
        """The base's classes that it has, in order; () for all. Logits of others are left out of the argmax."""
        return tuple(_ROWS[self.kind].get("classes", ()))


def is_shift(name: str) -> bool:
    """Whether a name begins as that of such a set."""
    return name.partition("/")[0] in _ROWS


def kinds_of(base: str) -> tuple[str, ...]:
    """The kinds of sets that shift a data set."""
    return tuple(kind for kind, row in _ROWS.items() if row["base"] == base)


def corruptions(kind: str) -> tuple[str, ...]:
    """The corruptions whose mean is reported; () for a set without any."""
    row = _ROWS[kind]
    return tuple(row.get("parts", ())) if row.get("severities") else ()


def find_shift(name: str) -> Shift:
    """The test set of a name: `KIND`, `KIND/VERSION`, or `KIND/CORRUPTION/SEVERITY`.

    Raises ValueError for an unknown one; the message offers the nearest.
    """
    kind, *rest = name.split("/")
    if kind not in _ROWS:
        raise ValueError(f"unknown shifted data set {name!r}; known are {', '.join(_ROWS)}")
    row = _ROWS[kind]
    parts = (*row.get("parts", ()), *row.get("unused", ()))
    part = rest[0] if rest else row.get("default", "")
    if parts and part not in parts:
        near = difflib.get_close_matches(part, parts, n=2, cutoff=0.4) or parts
        form = f"{kind}/CORRUPTION/SEVERITY" if row.get("severities") else f"{kind}/VERSION"
        raise ValueError(f"{name!r}: expected {form}, with {' or '.join(near)}")
    if not row.get("severities"):
        if len(rest) > bool(parts):
            raise ValueError(f"{name!r} has too many parts; expected {kind}{'/VERSION' if parts else ''}")
        return Shift(kind, row["base"], part)
    if len(rest) != 2 or rest[1] not in map(str, SEVERITIES):
        raise ValueError(f"{name!r}: expected {kind}/CORRUPTION/SEVERITY with a severity from 1 to 5")
    return Shift(kind, row["base"], part, int(rest[1]))


def mean_corruption_error(errors: Mapping[str, float], alexnet: Mapping[str, float] = ALEXNET) -> float:
    """The mCE: each corruption's mean error over AlexNet's, averaged; 1 is as good as AlexNet.

    `errors` holds the mean error over severities of each corruption, `alexnet` AlexNet's, by default those of
    ImageNet-C's 15. Raises ValueError if some are missing.
    """
    missing = sorted(set(alexnet) - set(errors))
    if missing:
        raise ValueError(f"the mCE needs all {len(alexnet)} corruptions; missing are {', '.join(missing)}")
    return sum(errors[name] / error for name, error in alexnet.items()) / len(alexnet)
