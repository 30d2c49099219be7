"""Tiers of a scale, from `tiers.toml`: which items, methods and rows are worth the first day; does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rp_models.settings import require

from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.table import changed, read

Config = TypeVar("Config", TrainDra, Comparison)


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A part of a scale, which holds those before it."""

    about: str = "everything"
    items: tuple[str, ...] = ()  # () for all
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by recipe of train_dra.py; {} for all
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of compare_purifiers.py by data set; {} for all

    def runs(self, configs: Mapping[str, TrainDra]) -> dict[str, TrainDra]:
        """The runs of this tier, with its methods."""
        return _part(configs, self.methods, "method")

    def comparisons(self, configs: Mapping[str, Comparison]) -> dict[str, Comparison]:
        """The comparisons of this tier, with its rows."""
        return _part(configs, self.rows, "only")


def _part(configs: Mapping[str, Config], chosen: Mapping[str, tuple[str, ...]], field_: str) -> dict[str, Config]:
    """The configurations that are chosen, with the values of a field that are; all of them if none is."""
    _check({name: getattr(config, field_) for name, config in configs.items()}, chosen)
    return {
        name: changed(config, {field_: tuple(one for one in getattr(config, field_) if one in chosen[name])})
        for name, config in configs.items()
        if name in chosen
    } or dict(configs)


def _check(known: Mapping[str, tuple[str, ...]], chosen: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse configurations, methods and rows that the scale does not have."""
    for place, wanted in chosen.items():
        other = " ".join(sorted({*wanted} - {*known.get(place, ())})) or "place"
        require(place in known and other == "place", f"tiers.toml: {place} has no {other} at this scale")


def _read() -> dict[str, dict[int, Tier]]:
    """By scale and number."""
    return {
        scale: {int(number): Tier(**words) for number, words in tiers.items()}
        for scale, tiers in read(Path(__file__).with_name("tiers")).items()
    }


TIERS: dict[str, dict[int, Tier]] = _read()


def tier_of(scale: str, number: int | None) -> Tier:
    """The tier of a scale; everything where none is asked for."""
    if number is None:
        return Tier()
    known = TIERS.get(scale, {})
    require(number in known, f"--tier {number}: the scale {scale} has {', '.join(map(str, known)) or 'no tiers'}")
    return known[number]
