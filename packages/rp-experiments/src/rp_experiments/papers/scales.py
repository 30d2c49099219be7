"""What `reproduce.py` makes at each scale, from `scales.toml`; importing this does not import torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rp_attacks.settings import Budget

from rp_experiments.papers.given import parse_weights, with_weights
from rp_experiments.papers.plan import Plan, build
from rp_experiments.papers.sizes import Sizes
from rp_experiments.papers.tiers import tier_of
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.paper_scale import paper_comparison, paper_purifier_analyses
from rp_experiments.recipes.pretrain_settings import PretrainClassifier
from rp_experiments.recipes.probe import ProbeStudy
from rp_experiments.recipes.table import changed, read

_TABLES = read(Path(__file__).with_name("scales"))


def plan_of(scale: str, weights: Sequence[str] = (), tier: int | None = None) -> Plan:
    """The plan of a scale, or of one of its tiers.

    `weights`, such as `cifar10/mae=FILE`, take the place of networks that it would train.
    """
    part = tier_of(scale, tier)
    table = {**_TABLES.get(_TABLES[scale].get("base"), {}), **_TABLES[scale]}
    table.pop("base", None)
    runs = {name: changed(TrainDra(), changes) for name, changes in table["runs"].items()}
    comparisons = {data: _comparison(data, changes) for data, changes in table["comparisons"].items()}
    adversarial = {data: changed(TrainDra(), changes) for data, changes in table.get("adversarial", {}).items()}
    of = {**runs, **adversarial}
    of, comparisons = with_weights(of, comparisons, parse_weights(weights))
    runs, adversarial = ({name: of[name] for name in names} for names in (runs, adversarial))
    runs, comparisons = part.runs(runs), part.comparisons(comparisons)
    study = changed(ProbeStudy(), table["probe"])
    if "models" not in table["probe"]:
        study = replace(study, models=next(iter(runs.values())))
    views, first = table["views"], next(iter(comparisons))
    table |= {
        "runs": runs,
        "adversarial": adversarial,
        "comparisons": comparisons,
        "probe": study,
        "views": paper_purifier_analyses() if views == "paper" else {first: changed(PurifierAnalysis(), views)},
        "budget": Budget(**table["budget"]),
        "sensitivity": {row: _one_by_one(values) for row, values in table["sensitivity"].items()},
        "larger": {name: _other(comparisons[first], changes) for name, changes in table["larger"].items()},
    }
    elsewhere = table.get("larger_elsewhere", {})
    table["larger_elsewhere"] = {data: _other(comparisons[data], changes) for data, changes in elsewhere.items()}
    return build(Sizes(scale=scale, tier=part, **table))


def _comparison(data: str, changes: Any) -> Comparison:
    comparison = paper_comparison(data) if changes == "paper" else changed(Comparison(), changes)
    return replace(comparison, exhaustive=True)  # the papers' tables have a column for each attack


def _other(comparison: Comparison, changes: Mapping[str, Any]) -> PretrainClassifier:
    """Another classifier than a comparison's, trained as that one but for these changes."""
    return changed(comparison.pretrain_classifier, {"standard": changes})


def _one_by_one(values: Mapping[str, tuple[object, ...]]) -> tuple[Mapping[str, object], ...]:
    return tuple({name: value} for name, many in values.items() for value in many)


SCALES: dict[str, Callable[..., Plan]] = {scale: partial(plan_of, scale) for scale in _TABLES}
