"""Recipes as tables: of each only what it changes in another one or in the defaults; does not import torch."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")
_TABLES: dict[type, Mapping[str, Any]] = {}  # recipes that were read, by their settings


def recipes(file: str, settings: type[Settings], kind: str = "") -> dict[str, Callable[[], Settings]]:
    """The recipes of `FILE.toml` beside this module, or of its part `kind`, by name, in the file's order."""
    tables = read(file)
    _TABLES[settings] = tables[kind] if kind else tables
    return recipes_of(settings)


def recipes_of(settings: type[Settings]) -> dict[str, Callable[[], Settings]]:
    """The recipes of these settings, which were read."""
    return {name: partial(recipe, settings, name) for name in _TABLES[settings]}


def read(file: str | Path) -> dict[str, Any]:
    """`FILE.toml`, from beside this module, its values as settings hold them: lists as tuples, "None" as None."""
    values: dict[str, Any] = _held(tomllib.loads((Path(__file__).parent / f"{file}.toml").read_text(encoding="utf-8")))
    return values


def recipe(settings: type[Settings], name: str) -> Settings:
    """A recipe by its settings and name."""
    return changed(settings(), _TABLES[settings][name])


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings, or the recipe that `base` names, with these changes; inner settings are changed value by value."""
    values = dict(changes)
    if "base" in values:
        settings = recipe(type(settings), values.pop("base"))
    for name, value in values.items():
        inner = getattr(settings, name, None)
        values[name] = changed(inner, value) if is_dataclass(inner) else value
    return replace(settings, **values)  # type: ignore[type-var]


def _held(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _held(inner) for name, inner in value.items()}
    return tuple(map(_held, value)) if isinstance(value, list) else None if value == "None" else value
