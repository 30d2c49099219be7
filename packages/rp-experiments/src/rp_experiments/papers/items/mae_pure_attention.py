"""Figures 1, 2, 4, 6, 7 and 8 of the MAE-Pure paper: what attack and purification do to attention and loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import FAILED, HELD, OPEN, Check, Verdict, between, decided, rule, together
from rp_experiments.papers.item import Look, Measured, Table
from rp_experiments.papers.items.looks import by_data, item, on_data, views_of
from rp_experiments.results import Limits
from rp_experiments.statistics import of_means, rank_test, share_of
from rp_experiments.tables import Row

ADVERSARIAL, NOISY = "adversarial", "random signs"
_RANK = 0.8  # rank correlation from which two curves are said to move together
Point = Mapping[str, Any]


def _at_radius(result: Mapping[str, Any], model: str, kind: str) -> Point:
    """The point of a curve over the radius at the threat's own radius."""
    eps = float(result["setting"]["eps"])
    found: list[Point] = result["over_radii"][model][kind]
    return min(found, key=lambda point: abs(float(point["position"]) - eps))


def _minus(first: Point, second: Point, what: str) -> Limits:
    """The difference of two points of curves, from the standard errors of both."""
    return of_means((1.0, first[what], first[f"{what}_error"]), (-1.0, second[what], second[f"{what}_error"]))


@item("mae-pure/fig-1", products=views_of("svhn"))
def reconstructions(made: Mapping[str, Built]) -> Measured:
    """The reconstruction loss of clean, attacked and purified images."""
    result = made["views"].read()
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for model in (name for name in result["over_radii"] if name in ("MAE", "RMAE")):
        attacked, noisy = (_at_radius(result, model, kind) for kind in (ADVERSARIAL, NOISY))
        purified = result["over_steps"][model][ADVERSARIAL][-1]
        losses = {"loss, clean": attacked["clean_loss"], "attacked": attacked["loss"]}
        losses |= {"random signs of the same size": noisy["loss"], "attacked, purified": purified["loss"]}
        (row,) = (row for row in result["image_by_image"] if row["model"] == model)
        share = row["loss rises under attack %"]
        rows.append({"model": model, **losses, "images whose loss rises under attack, %": share})
        numbers[f"{model}, rises"] = share_of(share, result["setting"]["images"])
        numbers[f"{model}, attacked minus noisy"] = _minus(attacked, noisy, "loss")
        numbers[f"{model}, excess removed"] = _removed(result["over_radii"][model][ADVERSARIAL][0], attacked, purified)
    table = Table("Reconstruction loss of hidden patches, mean over images", rows, "views")
    return Measured(tables=[table], numbers=numbers)


def _removed(clean: Point, attacked: Point, purified: Point) -> Limits | None:
    """The share of the loss's rise that purification takes away; None where the rise is not sure.

    Its error is that of a ratio, to first order, as if the errors of the three means were independent.
    """
    rise, left = attacked["loss"] - clean["loss"], purified["loss"] - clean["loss"]
    if _minus(attacked, clean, "loss")["low"] <= 0:
        return None
    weights = ((left / rise**2, attacked), (-1 / rise, purified), ((rise - left) / rise**2, clean))
    terms = of_means(*((weight, point["loss"], point["loss_error"]) for weight, point in weights))
    removed = 1 - left / rise
    return {key: removed + value - terms["estimate"] for key, value in terms.items()}


@item("mae-pure/fig-2-8", products=views_of("imagenet"))
def attention(made: Mapping[str, Built]) -> Measured:
    """Where the attention of a hidden patch goes."""
    result = made["views"].read()
    rows = result["attention_of_hidden_patch"]
    numbers = {f"{row['model']}, {key}": value for row in rows for key, value in row.items() if key != "model"}
    for row in rows:
        share = row["purified nearer than adversarial %"]
        numbers[f"{row['model']}, nearer"] = share_of(share, result["setting"]["images"])
    title = "Share of a hidden patch's attention that lies elsewhere than on the clean image, %"
    return Measured(tables=[Table(title, rows, "views")], numbers=numbers)


def _curves(model: str) -> Look:
    """Rank correlations of a network's curves, and how steeply they begin and end."""

    def look(made: Mapping[str, Built]) -> Measured:
        result = made["views"].read()
        curve = result["over_radii"][model][ADVERSARIAL]
        numbers: dict[str, Any] = {}
        for axis, points in (("radius", curve), ("steps", result["over_steps"][model][ADVERSARIAL])):
            position, amv, loss = ([point[key] for point in points] for key in ("position", "amv", "loss"))
            numbers[f"{model}, {axis}, AMV"] = rank_test(position, amv)
            numbers[f"{model}, {axis}, loss"] = rank_test(position, loss)
        numbers[f"{model}, slopes"] = _slopes(curve)
        attacked, noisy = (_at_radius(result, model, kind) for kind in (ADVERSARIAL, NOISY))
        numbers[f"{model}, AMV, attack minus noise"] = _minus(attacked, noisy, "amv")
        rows = [row for row in result["rank_correlation"] if row["model"] == model]
        return Measured(
            tables=[Table("Rank correlations of the curves' points", rows, "views")],
            numbers=numbers,
        )

    return look


item("mae-pure/fig-4", products=lambda plan: on_data({"views": plan.views}, "cifar100", "imagenet"))(
    by_data(_curves("MAE"))
)
item("mae-pure/fig-7", products=views_of())(_curves("MaskDiT"))


def _slopes(curve: Sequence[Point]) -> dict[str, Any]:
    """How fast AMV rises at first and at last, and the first slope minus twice the last one with its interval."""
    (start, early), (late, end) = curve[:2], curve[-2:]
    first, last = 1 / (early["position"] - start["position"]), 1 / (end["position"] - late["position"])
    weights = ((first, early), (-first, start), (-2 * last, end), (2 * last, late))
    return {
        "first": float(first * (early["amv"] - start["amv"])),
        "last": float(last * (end["amv"] - late["amv"])),
        "gap": of_means(*((weight, point["amv"], point["amv_error"]) for weight, point in weights)),
    }


@rule
def levels_off(model: str) -> Check:
    """Held if AMV rises at least twice as fast at the smallest radii as at the largest, where it still rises."""

    def by(slopes: Mapping[str, Any]) -> tuple[Verdict, str]:
        gap: Limits = slopes["gap"]
        text = (
            f"{slopes['first']:.3g} at the smallest radii, {slopes['last']:.3g} at the largest; the first minus twice "
            f"the last {between(gap)} (rule: above zero)"
        )
        if slopes["last"] <= 0:
            return OPEN, f"{text}; at the largest radii AMV does not rise any more"
        return HELD if gap["low"] > 0 else FAILED if gap["high"] < 0 else OPEN, text

    return decided("slope of AMV", f"{model}, slopes", by=by)


@rule
def move_together(model: str, axis: str, sign: int) -> Check:
    """AMV and loss both rise (+1) or fall (-1) along the axis."""
    names = [f"{model}, {axis}, {what}" for what in ("AMV", "loss")]
    return together(names, sign, _RANK, f"{model}, rank correlation with the {axis}")


@item("mae-pure/fig-6", products=views_of())
def fine_tuned(made: Mapping[str, Built]) -> Measured:
    """AMV of plain and fine-tuned networks before and after purification."""
    rows: list[Row] = []
    ends: dict[str, tuple[Point, Point]] = {}
    for model, kinds in made["views"].read()["over_steps"].items():
        before, after = ends[model] = kinds[ADVERSARIAL][0], kinds[ADVERSARIAL][-1]
        rows.append(
            {"model": model, "AMV before": before["amv"], "AMV after": after["amv"], "steps": after["position"]}
        )
    numbers: dict[str, Any] = {}
    for model in ("MAE", "MaskDiT"):
        names = [f"R{model} minus {model}, before", f"{model} minus R{model}, after"]
        names += [f"{model} minus R{model}, share left"]
        found: Sequence[Limits | None] = (None,) * len(names)
        if model in ends and f"R{model}" in ends:
            plain, tuned = ends[model], ends[f"R{model}"]
            left = _minus(_left(*plain), _left(*tuned), "amv")
            found = _minus(tuned[0], plain[0], "amv"), _minus(plain[1], tuned[1], "amv"), left
        numbers |= dict(zip(names, found, strict=True))
    return Measured(
        tables=[Table("AMV of attacked images before and after purification", rows, "views")],
        numbers=numbers,
    )


def _left(before: Point, after: Point) -> Point:
    """The share of AMV that is left, with its standard error to first order."""
    share = after["amv"] / before["amv"]
    last = after["amv_error"] / after["amv"] if after["amv"] else 0.0
    return {"amv": share, "amv_error": share * math.hypot(last, before["amv_error"] / before["amv"])}
