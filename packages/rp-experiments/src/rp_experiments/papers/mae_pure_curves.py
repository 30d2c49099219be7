"""Figures 4, 6 and 7 of the MAE-Pure paper: AMV and loss over the radius and over the steps of purification."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Made
from rp_experiments.papers.claims import (
    FAILED,
    HELD,
    OPEN,
    Check,
    Claim,
    Finding,
    Limits,
    Numbers,
    between,
    everyone,
    reaches,
    together,
)
from rp_experiments.papers.intervals import of_means, rank_test
from rp_experiments.papers.item import Figure, Item, Outcome, Products, Row, Table

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

ADVERSARIAL, NOISY = "adversarial", "random signs"
_RANK = 0.8  # rank correlation from which two curves are said to move together


def views(plan: "Plan") -> Products:
    """What `analyze_purifier.py` says."""
    return {"views": plan.views}


def at_radius(result: Mapping[str, Any], model: str, kind: str) -> Mapping[str, Any]:
    """The point of a curve over the radius at the threat's own radius."""
    eps = result["setting"]["eps"]
    points: list[Mapping[str, Any]] = result["over_radii"][model][kind]
    return min(points, key=lambda point: abs(float(point["position"]) - float(eps)))


def minus(first: Mapping[str, Any], second: Mapping[str, Any], what: str) -> Limits:
    """The difference of two points of curves, from the standard errors of both."""
    return of_means((1.0, first[what], first[f"{what}_error"]), (-1.0, second[what], second[f"{what}_error"]))


def _curves(made: Mapping[str, Made], models: tuple[str, ...]) -> Outcome:
    """Rank correlations of the curves of some networks, and how steeply they begin and end."""
    result = made["views"].read()
    rows = [row for row in result["rank_correlation"] if row["model"] in models]
    numbers: dict[str, Any] = {}
    for model in (name for name in models if name in result["over_radii"]):
        curve = result["over_radii"][model][ADVERSARIAL]
        for axis, points in (("radius", curve), ("steps", result["over_steps"][model][ADVERSARIAL])):
            position, amv, loss = ([point[key] for point in points] for key in ("position", "amv", "loss"))
            numbers |= {f"{model}, {axis}, AMV": rank_test(position, amv)}
            numbers |= {f"{model}, {axis}, loss": rank_test(position, loss)}
        first, last = _slope(*curve[:2]), _slope(*curve[-2:])
        numbers[f"{model}, slopes"] = {"first": first, "last": last, "gap": _contrast(curve)}
        numbers[f"{model}, AMV, attack minus noise"] = minus(
            at_radius(result, model, ADVERSARIAL), at_radius(result, model, NOISY), "amv"
        )
    return Outcome(
        tables=[Table("Rank correlations of the curves' points", rows, "views")],
        figures=[
            Figure("loss and AMV over the radius", "views", "figures/amv-over-radius.png"),
            Figure("loss and AMV over the purification steps", "views", "figures/amv-over-steps.png"),
        ],
        numbers=numbers,
    )


def _slope(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """How fast AMV rises between two points."""
    return float((after["amv"] - before["amv"]) / (after["position"] - before["position"]))


def _contrast(curve: Sequence[Mapping[str, Any]]) -> Limits:
    """The first slope minus twice the last one, with its interval."""
    (start, early), (late, end) = curve[:2], curve[-2:]
    first, last = 1 / (early["position"] - start["position"]), 2 / (end["position"] - late["position"])
    weights = ((first, early), (-first, start), (-last, end), (last, late))
    return of_means(*((weight, point["amv"], point["amv_error"]) for weight, point in weights))


def _levels_off(model: str) -> Check:
    """Held if AMV rises at least twice as fast at the smallest radii as at the largest, where it still rises."""

    def check(numbers: Numbers) -> Finding:
        slopes = numbers[f"{model}, slopes"]
        gap: Limits = slopes["gap"]
        text = (
            f"slope of AMV {slopes['first']:.3g} at the smallest radii, {slopes['last']:.3g} at the largest; the first "
            f"minus twice the last {between(gap)} (rule: above zero)"
        )
        if slopes["last"] <= 0:
            return Finding(OPEN, f"{text}; at the largest radii AMV does not rise any more")
        return Finding(HELD if gap["low"] > 0 else FAILED if gap["high"] < 0 else OPEN, text)

    return check


def _together(model: str, axis: str, sign: int) -> Check:
    """AMV and loss both rise (+1) or fall (-1) along the axis."""
    names = (f"{model}, {axis}, AMV", f"{model}, {axis}, loss")
    return together(names, sign, _RANK, f"{model}, rank correlation with the {axis}")


def _shape(model: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"{model}: AMV and reconstruction loss rise together with the attack's radius.",
            _together(model, "radius", 1),
        ),
        Claim(
            f"{model}: AMV rises rapidly at the smallest radii and levels off.",
            _levels_off(model),
        ),
    )


FIGURE_4 = Item(
    key="mae-pure/fig-4",
    paper="MAE-Pure",
    title="AMV and reconstruction loss over the radius and over the purification steps",
    products=views,
    look=lambda made: _curves(made, ("MAE",)),
    claims=(
        *_shape("MAE"),
        Claim("AMV and loss fall together as MAE-Pure goes on.", _together("MAE", "steps", -1)),
        Claim(
            "AMV is a mark of adversarial perturbations: random signs of the same size move attention less.",
            reaches("MAE, AMV, attack minus noise", 0.0, "AMV at the threat's radius, attack minus noise"),
        ),
    ),
    remark="PGD on the classifier in place of AutoAttack; 100 images and more. The paper has no control. Random "
    "signs of the same size move AMV too, which `table` and claims show beside it.",
)
FIGURE_7 = Item(
    key="mae-pure/fig-7",
    paper="MAE-Pure",
    title="The same for MaskDiT",
    products=views,
    look=lambda made: _curves(made, ("MaskDiT",)),
    claims=(
        *_shape("MaskDiT"),
        Claim("AMV and loss fall together as MaskDiT-Pure goes on.", _together("MaskDiT", "steps", -1)),
    ),
)


def _figure_6(made: Mapping[str, Made]) -> Outcome:
    curves = made["views"].read()["over_steps"]
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for model, kinds in curves.items():
        first, last = kinds[ADVERSARIAL][0], kinds[ADVERSARIAL][-1]
        rows.append({"model": model, "AMV before": first["amv"], "AMV after": last["amv"], "steps": last["position"]})
        found[model] = {"before": first, "after": last, "left": _left(first, last)}
    for model in ("MAE", "MaskDiT"):
        plain, tuned = found.get(model), found.get(f"R{model}")
        if plain and tuned:
            numbers[f"R{model} minus {model}, before"] = minus(tuned["before"], plain["before"], "amv")
            numbers[f"{model} minus R{model}, after"] = minus(plain["after"], tuned["after"], "amv")
            numbers[f"{model} minus R{model}, share left"] = minus(plain["left"], tuned["left"], "amv")
    return Outcome(
        tables=[Table("AMV of attacked images before and after purification", rows, "views")],
        figures=[Figure("AMV over the purification steps", "views", "figures/amv-of-robust.png")],
        numbers=numbers,
    )


def _left(first: Mapping[str, Any], last: Mapping[str, Any]) -> Mapping[str, float]:
    """The share of AMV that is left, with its standard error to first order."""
    share = last["amv"] / first["amv"]
    relative = math.hypot(last["amv_error"] / last["amv"] if last["amv"] else 0.0, first["amv_error"] / first["amv"])
    return {"amv": share, "amv_error": share * relative}


def _tuned(model: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"R{model} is more sensitive: its AMV before purification is higher than {model}'s.",
            reaches(f"R{model} minus {model}, before", 0.0, f"AMV before purification, R{model} minus {model}"),
        ),
        Claim(
            f"R{model}-Pure brings AMV down further than {model}-Pure.",
            everyone(
                reaches(f"{model} minus R{model}, after", 0.0, f"AMV after purification, {model} minus R{model}"),
                reaches(f"{model} minus R{model}, share left", 0.0, f"share of AMV left, {model} minus R{model}"),
            ),
        ),
    )


FIGURE_6 = Item(
    key="mae-pure/fig-6",
    paper="MAE-Pure",
    title="AMV of robustly fine-tuned networks over the purification steps",
    products=views,
    look=_figure_6,
    claims=(*_tuned("MAE"), *_tuned("MaskDiT")),
    remark="Intervals are those of separate images; here all networks see the same ones.",
)
