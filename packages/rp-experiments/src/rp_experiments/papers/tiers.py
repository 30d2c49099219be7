"""Tiers of a scale, from `tiers.toml`: which items, methods and rows come first; does not import torch."""

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
    """A part of a scale, which holds those before it; what is empty restricts nothing."""

    about: str = "everything"
    items: tuple[str, ...] = ()
    data: tuple[str, ...] = ()  # data sets
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by recipe of train_dra.py; no other runs
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of compare_purifiers.py, by data set
    without: tuple[str, ...] = ()  # fields of the plan whose products wait for a higher tier

    def runs(self, configs: Mapping[str, TrainDra]) -> dict[str, TrainDra]:
        """The runs, with this tier's methods."""
        return _restricted(configs, self.methods, "method")

    def comparisons(self, configs: Mapping[str, Comparison]) -> dict[str, Comparison]:
        """The comparisons, with this tier's rows."""
        return _restricted(configs, self.rows, "only")


def _restricted(configs: Mapping[str, Config], chosen: Mapping[str, tuple[str, ...]], field_: str) -> dict[str, Config]:
    """The configurations with those values of a field that are chosen."""
    kept = _kept({name: getattr(config, field_) for name, config in configs.items()}, chosen)
    return {name: changed(config, {field_: kept[name]}) if name in kept else config for name, config in configs.items()}


def _kept(known: Mapping[str, tuple[str, ...]], chosen: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What is chosen, in the scale's order; ValueError for what it does not have."""
    for name, parts in chosen.items():
        other = " ".join(sorted({*parts} - {*known.get(name, ())})) or "place"
        require(name in known and other == "place", f"tiers.toml: {name} has no {other} at this scale")
    return {name: tuple(one for one in known[name] if one in parts) for name, parts in chosen.items()}


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
