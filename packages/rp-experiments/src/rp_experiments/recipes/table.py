"""Recipes as tables: of each only what it changes in another one or in the defaults; does not import torch."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def recipes(file: str, settings: Callable[[], Settings], kind: str = "") -> dict[str, Callable[[], Settings]]:
    """The recipes of `FILE.toml` beside this module, or of its part `kind`, by name, in the file's order."""
    tables = tomllib.loads((Path(__file__).parent / f"{file}.toml").read_text(encoding="utf-8"))
    tables = tables[kind] if kind else tables

    def make(name: str) -> Settings:
        changes = dict(tables[name])
        base = changes.pop("base", None)
        return changed(make(base) if base else settings(), changes)

    return {name: partial(make, name) for name in tables}


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with these changes; inner settings are changed value by value."""
    values: dict[str, Any] = {}
    for name, value in changes.items():
        inner = getattr(settings, name, None)
        values[name] = changed(inner, value) if is_dataclass(inner) else _value(value)
    return replace(settings, **values)  # type: ignore[type-var]


def _value(value: Any) -> Any:
    """A value of TOML as settings hold it."""
    return tuple(value) if isinstance(value, list) else None if value == "None" else value
