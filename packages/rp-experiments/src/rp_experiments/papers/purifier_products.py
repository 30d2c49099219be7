"""What the MAE-Pure paper's items are made from; importing this does not import torch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rp_purify.settings.base import ROLES

from rp_experiments.artifacts import Artifact
from rp_experiments.papers.settings import PURIFIERS, AttackTable, Case, DescentCheck, Family, Networks, Pilot, Timing
from rp_experiments.papers.sizes import Sizes, product
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.pretrain_settings import PretrainClassifier


def purifier_products(sizes: Sizes) -> dict[str, Any]:
    """What the MAE-Pure paper's items are made from, by field of the plan."""
    first, comparison = next(iter(sizes.comparisons.items()))
    seen, pilots, networks = _networks(sizes)

    def look(job: str, config: Any, data: str) -> Artifact:
        return product(sizes, job, config, networks=networks[data])

    return {
        "pilots": pilots,
        "networks": networks,
        "comparisons": {data: look("compare", of, data) for data, of in sizes.comparisons.items()},
        **_attack_tables(sizes, networks),
        "views": {
            data: product(sizes, "views", config, networks=seen.get(data, networks[first]))
            for data, config in sizes.views.items()
            if data in sizes.comparisons
        },
        "timings": {
            data: look("timing", Timing(comparison=of, repeats=sizes.timing_repeats), data)
            for data, of in sizes.comparisons.items()
        },
        "descent": look("descent", DescentCheck(comparison=comparison, **sizes.descent), first),  # type: ignore[arg-type]
    }


def _networks(sizes: Sizes) -> tuple[dict[str, Artifact], dict[str, Artifact], dict[str, Artifact]]:
    """By data set the networks that further figures need and no more, the pilots, and all networks of the rows."""
    first = next(iter(sizes.comparisons))
    seen = {
        data: product(sizes, "networks", Networks(comparison=sizes.comparisons[data], roles=("classifier", "mae")))
        for data in sizes.views
        if data != first and data in sizes.comparisons
    }
    pilots = {f"{one.config.network}, {data}": one for data in sizes.comparisons for one in _pilots(sizes, data, seen)}

    def of_rows(data: str, of: Comparison) -> Artifact:
        needs = {"seen": seen[data]} if data in seen else {}
        needs |= {one.config.tuning: one for one in pilots.values() if one.config.comparison.data == data}
        return product(sizes, "networks", Networks(comparison=of, roles=_roles(of)), kind="", **needs)

    return seen, pilots, {data: of_rows(data, of) for data, of in sizes.comparisons.items()}


def _attack_tables(sizes: Sizes, networks: Mapping[str, Artifact]) -> dict[str, Any]:
    """The attack tables, by field of the plan."""
    first, comparison = next(iter(sizes.comparisons.items()))

    def table(data: str, cases: tuple[Case, ...], kind: str, **options: Any) -> Artifact:
        of = sizes.comparisons[data]
        of = replace(of, only=(), images=sizes.table_images or of.images)
        eps, in_norm = dict(sizes.eps.get(data, {})), _plain(sizes.in_norm.get(data, {}))
        options |= {"budget": sizes.budget, "passes": sizes.passes, "published_step": sizes.published_step}
        config = AttackTable(comparison=of, cases=cases, eps=eps, in_norm=in_norm, **options)
        return product(sizes, "attacks", config, kind=kind, networks=networks[data])

    def before_larger(data: str, classifier: PretrainClassifier) -> Artifact:
        cases = _before(sizes.comparisons[data], ("first", "larger"))
        return table(data, cases, "classifiers", classifiers={"larger": classifier})

    def in_other_norms(data: str, of: Comparison, classifier: str = "") -> Artifact:
        cases = _rows(of, "l2", "l1", further=sizes.further_rows, classifier=classifier)
        known = {classifier: sizes.larger[classifier]} if classifier else {}
        return table(data, cases, "norms", classifiers=known)

    # Table 8 puts purifiers before a larger classifier, Table 5 some before another; "first" is their own
    before = _before(comparison, ("first", "larger", "other"))
    classifiers = table(first, before, "classifiers", classifiers=dict(sizes.larger))
    elsewhere = {data: before_larger(data, classifier) for data, classifier in sizes.larger_elsewhere.items()}
    norms = {data: in_other_norms(data, of) for data, of in sizes.comparisons.items()}
    return {
        "norms": norms,
        "unseen": norms | {first: in_other_norms(first, comparison, sizes.unseen_before)},
        "black_box": {
            data: table(data, _rows(of, "black-box", further=sizes.further_rows), "black box")
            for data, of in sizes.comparisons.items()
        },
        "classifiers": classifiers,
        "before_larger": {first: classifiers} | elsewhere,
        "sensitivity": table(first, _sensitivity(sizes), "sensitivity"),
    }


def _pilots(sizes: Sizes, data: str, seen: Mapping[str, Artifact]) -> list[Artifact]:
    """Searches for the values of fine-tuning, for each network of a comparison's rows that is tuned."""
    of, options = sizes.comparisons[data], dict(sizes.pilot)
    tried = options.pop("tried", {})
    roles = [role for role in tried if role in _roles(of)]
    start = Networks(comparison=of, roles=("classifier", *(role.removeprefix("r") for role in roles)))
    needs = {"seen": seen[data]} if data in seen else {}
    return [
        product(
            sizes,
            "pilot",
            Pilot(
                comparison=replace(of, only=(), images=options.get("images", of.images)),
                network=role,
                tried=tuple(_in_ball(values, of.budget.eps) for values in tried[role]),
                **{name: value for name, value in options.items() if name != "images"},
            ),
            kind="",
            networks=product(sizes, "networks", start, kind="", **needs),
        )
        for role in roles
    ]


def _in_ball(values: Mapping[str, float], eps: float) -> dict[str, float]:
    """Values to try; `noise` is a share of the attack's radius."""
    found = dict(values)
    return found | ({"noise_std": found.pop("noise") * eps} if "noise" in found else {})


def _plain(value: Any) -> Any:
    """Nested mappings as dictionaries, which settings hold."""
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _present(comparison: Comparison, further: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(row for row in (*further, *PURIFIERS) if row in comparison.chosen)


def _roles(comparison: Comparison) -> tuple[str, ...]:
    """The networks of a comparison's rows."""
    choices = [comparison.purifier(row) for row in comparison.chosen]
    names = [getattr(choice, name, "") for choice in choices for name in ROLES]
    return tuple(dict.fromkeys(["classifier", *filter(None, names)]))


def _rows(
    comparison: Comparison, *families: Family, further: tuple[str, ...] = (), classifier: str = ""
) -> tuple[Case, ...]:
    rows = ("none", *_present(comparison, further))
    return tuple(Case(name=row, row=row, families=families, classifier=classifier) for row in rows)


def _before(comparison: Comparison, classifiers: tuple[str, ...]) -> tuple[Case, ...]:
    """Purifiers before classifiers by name; the one of another kind stands behind what Table 5 has."""
    present = _present(comparison)
    tuned = tuple(row for row in present if row not in ("mae_pure", "maskdit_pure"))
    return tuple(
        Case(
            name=f"{row}, {name}",
            row=row,
            classifier="" if name == "first" else name,
            families=("linf",) if name == "first" else ("linf", "l2"),
        )
        for name in classifiers
        for row in ("none", *(tuned if name == "other" else present))
    )


def _sensitivity(sizes: Sizes) -> tuple[Case, ...]:
    """A case for each changed setting."""
    return tuple(
        Case(name=_changed(row, changes), row=row, families=(sizes.sensitivity_attacks,), changes=dict(changes))
        for row, settings in sizes.sensitivity.items()
        for changes in settings
    )


def _changed(row: str, changes: Mapping[str, object]) -> str:
    """`mae_pure steps=5`."""
    return " ".join([row, *(f"{key}={value:.4g}" for key, value in changes.items())])
