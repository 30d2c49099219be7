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
    tables = tomllib.loads((Path(__file__).parent / f"{file}.toml").read_text(encoding="utf-8"))
    _TABLES[settings] = tables[kind] if kind else tables
    return {name: partial(recipe, settings, name) for name in _TABLES[settings]}


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
        values[name] = changed(inner, value) if is_dataclass(inner) else _value(value)
    return replace(settings, **values)  # type: ignore[type-var]


def _value(value: Any) -> Any:
    """A value of TOML as settings hold it."""
    return tuple(value) if isinstance(value, list) else None if value == "None" else value
