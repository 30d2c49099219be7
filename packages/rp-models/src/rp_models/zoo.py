"""Every network by name: `build("wrn-28-10-swish", num_classes=10)`.

An entry, a row of `zoo.toml`, names a class and default arguments; building imports only that class's module. A model
that was built here carries its name and arguments as `model.recipe`, which is what a checkpoint's header stores.
"""

import difflib
import tomllib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rp_models.foreign import build_foreign, find_factory, is_foreign
from rp_models.networks import normalization


class Recipe(NamedTuple):
    """How a model was built: its zoo name and all arguments that differ from the entry's own."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A zoo entry: where the class is, its arguments for this size, and where the network comes from."""

    target: str  # "module:Class" inside rp_models
    arguments: dict[str, Any] = field(default_factory=dict)
    paper: str = ""


def _entries() -> dict[str, Entry]:
    """The rows of `zoo.toml`."""
    entries = {}
    for family in tomllib.loads(Path(__file__).with_name("zoo.toml").read_text("utf-8"))["family"]:
        for name, arguments in family["entries"].items():
            if "statistics" in arguments:
                arguments |= getattr(normalization, arguments.pop("statistics"))._asdict()
            entries[name] = Entry(family["target"], arguments, family.get("paper", ""))
    return entries


ENTRIES = _entries()


@torch.inference_mode(False)  # weights made in that mode could never be differentiated through
def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network of the zoo with fresh weights, or one of your own code.

    Returns the module in train mode (that of a factory as it comes), with `model.recipe` set. Raises ValueError for an
    unknown name (the message offers the nearest ones), an unknown argument, or a factory that is not there or makes no
    torch module.

    Args:
        name: an entry's name, see `names()`; or `package.module:factory` or `file.py:factory`: this executes that code.
        **arguments: override the entry's arguments, or are those of the factory; JSON values only, so that a checkpoint
            can store them.
    """
    try:
        if is_foreign(name):
            model = build_foreign(name, **arguments)
        else:
            model = constructor(name)(**{**find(name).arguments, **arguments})
    except TypeError as error:
        if "unexpected keyword" not in str(error) and "missing" not in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error
    model.recipe = Recipe(name, arguments)  # type: ignore[assignment]
    return model


def build_entry(name: str, **arguments: Any) -> nn.Module:
    """`build` for a name that a file gives: an entry of the zoo, never code from elsewhere.

    Raises ValueError: as `build`, and for a name of code outside rp-models.
    """
    if is_foreign(name):
        raise ValueError(
            f"the network is made by code outside rp-models ({name}), which no file may start; if you trust it, name "
            "it: rp_models.load(path, code=...)"
        )
    return build(name, **arguments)


def constructor(name: str) -> Any:
    """What `build` calls: the class of an entry, or the factory of a name of other code."""
    if is_foreign(name):
        return find_factory(name)
    module, _, attribute = find(name).target.partition(":")
    return getattr(import_module(f"rp_models.{module}"), attribute)


def names(pattern: str = "") -> list[str]:
    """The names of all entries that contain `pattern`, sorted."""
    return sorted(name for name in ENTRIES if pattern in name)


class Listed(NamedTuple):
    """One line of the zoo's listing; parameters are None for a generic entry whose sizes must be given."""

    name: str
    parameters: int | None
    paper: str


def listing(pattern: str = "") -> list[Listed]:
    """All entries that contain `pattern`, with parameter counts and papers; allocates no weights.

    Entries of optional libraries that are not installed are counted as None.
    """
    lines = []
    for name in names(pattern):
        try:
            parameters = parameter_count(name)
        except (ValueError, ImportError):
            parameters = None
        lines.append(Listed(name, parameters, ENTRIES[name].paper))
    return lines


def find(name: str) -> Entry:
    """The entry of that name. Raises ValueError for an unknown name; the message offers the nearest ones."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "rp_models.names() lists all; your own: file.py:factory"
        )
        raise ValueError(f"unknown network {name!r}; {hint}")
    return ENTRIES[name]


def parameter_count(name: str, **arguments: Any) -> int:
    """The number of parameters of an entry, counted without allocating them (on the meta device)."""
    with torch.device("meta"):
        model = build(name, **arguments)
    return sum(parameter.numel() for parameter in model.parameters())
