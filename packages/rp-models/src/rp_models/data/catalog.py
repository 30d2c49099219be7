"""What is known of each data set without reading it; importing this module does not import torch."""

import difflib
import tomllib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from rp_models.data.info import DatasetInfo
from rp_models.data.shifts import find_shift, is_shift


def _described(name: str, rows: dict[str, dict[str, Any]]) -> DatasetInfo:
    """One row of `catalog.toml`."""
    row = rows.get(rows[name].get("like", ""), {}) | rows[name]
    numbered = [f"class {number}" for number in range(row.pop("numbered_classes", 0))]
    row["eps"] = {norm: float(Fraction(radius)) for norm, radius in row["eps"].items()}
    row |= {key: tuple(row.get(key, numbered)) for key in ("class_names", "mean", "std")}
    row.pop("like", None)
    return DatasetInfo(name=name, **row)


def _catalog() -> dict[str, DatasetInfo]:
    """The rows of `catalog.toml` in their order."""
    rows = tomllib.loads(Path(__file__).with_name("catalog.toml").read_text("utf-8"))
    return {name: _described(name, rows) for name in rows}


CATALOG = _catalog()


def describe(name: str) -> DatasetInfo:
    """The description of a data set, from the catalogue or from files of one's own.

    `name`: a name of the catalogue, or of a shifted test set such as "cifar10-c/fog/3"; or the path of an `.npz` of
    images and labels, or of a class folder. Of these only headers, file names and labels are read. Raises ValueError
    for an unknown name; the message offers the nearest ones; DataError if the path holds no usable data set.
    """
    if name in CATALOG:
        return CATALOG[name]
    if is_shift(name):
        shift = find_shift(name)
        base = CATALOG[shift.base]
        names = tuple(base.class_names[number] for number in shift.classes) or base.class_names
        return replace(base, name=shift.name, class_names=names, split_sizes={})
    if name.endswith(".npz"):
        from rp_models.data.npz_set import describe_npz

        return describe_npz(Path(name))
    if Path(name).is_dir():
        from rp_models.data.class_folder import describe_class_folder

        return describe_class_folder(Path(name))
    near = difflib.get_close_matches(name, CATALOG, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(CATALOG)};"
    raise ValueError(f"unknown data set {name!r}; {hint} a path of an .npz file or of a class folder serves as well")
