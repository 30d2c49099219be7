"""Figures 1, 4 to 7 and 9 and Table 3 of the DRA paper: what the classifiers' features are like."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import (
    FAILED,
    HELD,
    MARGIN,
    OPEN,
    Check,
    Judgement,
    Numbers,
    Verdict,
    between,
    decided,
    exceeds,
    rule,
)
from rp_experiments.papers.item import Figure, Measured, Products, Table
from rp_experiments.papers.items.dra_tables import NAMES
from rp_experiments.papers.items.looks import item, roles
from rp_experiments.statistics import Z, correlation, rank_test
from rp_experiments.tables import Row

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

DIFFUSION = "diffusion representation"
_TRAINED = ("at", "at+dra", "dm-at", "dm-at+dra")


def _with_zoo(plan: "Plan") -> Products:
    """What a run's classifiers are like, and RobustBench's models where the scale has them."""
    zoo = {f"zoo, {data}": one for data, one in plan.zoo.items()}
    return {"analysis": plan.analysis, "representations": plan.representations, **zoo}


@item("dra/fig-1-9", products=_with_zoo)
def similarity(made: Mapping[str, Built]) -> Measured:
    """Similarity with the diffusion model's features, and robust accuracy; over RobustBench's models if it can be."""
    zoo = next((role for role in roles(made) if role.startswith("zoo, ")), None)
    return _of_run(made) if zoo is None else _of_zoo(made[zoo], zoo)


def _of_zoo(zoo: Built, role: str) -> Measured:
    """The figures as the paper has them: one point for each of RobustBench's models, published accuracies."""
    found, pictures = (
        zoo.read(),
        {"cknna": "CKNNA and robust accuracy", "cknna-standard": "the standard model beside it"},
    )
    tests = found["correlation"]
    title = f"CKNNA of RobustBench's models, {found['images']} images, k = {found['neighbours']}"
    return Measured(
        tables=[Table(title, found["models"], role)],
        figures=[
            Figure(caption, role, file) for name, caption in pictures.items() if zoo.has(file := f"figures/{name}.png")
        ],
        numbers={
            "all, diffusion": tests["diffusion"],
            "others, diffusion": tests["diffusion"],  # the standard model is none of them
            "others, standard": tests.get("standard"),
        },
    )


def _of_run(made: Mapping[str, Built]) -> Measured:
    """One point for each classifier of a run."""
    rows = made["analysis"].read("tables/similarity.json")
    similar = made["representations"].read()["similarity"]
    robust = {row["method"]: row["robust accuracy %"] for row in rows}
    names = [name for name in similar if name in robust]
    others = [name for name in names if name != "standard"]  # a network is as similar to itself as can be

    def rank(chosen: Sequence[str], of: str) -> dict[str, float] | None:
        scores = [score for name in chosen if (score := similar[name].get(of)) is not None]
        return rank_test([robust[n] for n in chosen], scores) if len(scores) == len(chosen) >= 2 else None

    table: list[Row] = [
        {"method": name, "robust accuracy %": robust.get(name), **cells} for name, cells in similar.items()
    ]
    title = "CKNNA with the diffusion model's and with the standard classifier's features"
    return Measured(
        tables=[
            Table("CKNNA with the diffusion model's features", rows, "analysis"),
            Table(title, table, "representations"),
        ],
        numbers={
            "all, diffusion": rank(names, "with diffusion"),
            "others, diffusion": rank(others, "with diffusion"),
            "others, standard": rank(others, "with standard"),
        },
    )


@rule
def stronger_correlation() -> Check:
    """Whether one correlation is above the other, over the same classifiers: their intervals must not overlap."""

    def by(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[Verdict, str]:
        text = (
            f"to diffusion features {one['estimate']:+.2f} (p = {one['p']:.2g}), to standard ones "
            f"{other['estimate']:+.2f} (p = {other['p']:.2g}), over {one['points']:.0f} classifiers"
        )
        first, second = (correlation(test["estimate"], int(test["points"])) for test in (one, other))
        if first is None or second is None:
            return OPEN, f"{text}: too few for an interval"
        verdict = HELD if first["low"] > second["high"] else FAILED if first["high"] < second["low"] else OPEN
        return verdict, f"{text}; intervals {between(first)} and {between(second)}"

    what = "rank correlation of robust accuracy with the similarity"
    return decided(what, "others, diffusion", "others, standard", by=by)


@item("dra/fig-4", "analysis", "representations")
def geometry(made: Mapping[str, Built]) -> Measured:
    """Alignment and uniformity of classifiers and diffusion features."""
    found = made["representations"].read()["geometry"]
    rows: list[Row] = [{"features": name, **cells} for name, cells in found.items()]
    return Measured(
        tables=[Table("Alignment and uniformity, higher is more", rows, "representations")],
        numbers={f"{name}, {key}": value for name, cells in found.items() for key, value in cells.items()},
    )


@rule
def aligned() -> Check:
    """Not testable where the features of all images are nearly the same: then attacked ones are near in any case."""
    check = exceeds(f"{DIFFUSION}, alignment", "standard, alignment", "alignment, diffusion against standard")

    def judge(numbers: Numbers) -> Judgement:
        spread, usual = numbers[f"{DIFFUSION}, uniformity"], numbers["standard, uniformity"]
        found = check(numbers)
        if spread >= MARGIN * usual:
            return found
        text = f"but diffusion features hardly differ between images, uniformity {spread:.3g} against {usual:.3g}"
        return Judgement(OPEN, f"{found.evidence}; {text}")

    return judge


@item("dra/fig-5", "analysis")
def geometry_with_dra(made: Mapping[str, Built]) -> Measured:
    """Alignment and uniformity of the classifiers with and without DRA."""
    rows = made["analysis"].read("tables/geometry.json")
    return Measured(
        tables=[Table("Alignment and uniformity, higher is more", rows, "analysis")],
        numbers={f"{row['name']}, {key}": row[key] for row in rows for key in ("alignment", "uniformity")},
    )


@item("dra/fig-6", products=lambda plan: {"analysis": plan.sparse})
def sparse(made: Mapping[str, Built]) -> Measured:
    """Reconstruction losses of sparse autoencoders."""
    losses: dict[tuple[str, int], list[float]] = {}
    for run in made["analysis"].read("tables/sae.json"):
        losses.setdefault((run["method"], run["k"]), []).append(run["normalized_loss"])
    methods, ks = (list(dict.fromkeys(part)) for part in zip(*losses, strict=True))
    rows: list[Row] = [
        {"method": name, **{f"K = {k}": _range(losses[name, k]) for k in ks if (name, k) in losses}} for name in methods
    ]
    title = "Normalised reconstruction loss of TopK autoencoders, over their seeds"
    return Measured(
        tables=[Table(title, rows, "analysis")],
        numbers={f"{n}, losses": {k: losses[n, k] for k in ks} if n in methods else None for n in NAMES},
    )


def _range(values: Sequence[float]) -> str:
    """`0.123 to 0.125` of several seeds."""
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


@rule
def easier(first: str, second: str) -> Check:
    """Held if for every K each seed's loss of the first is below all of the second's; failed if above all."""

    def by(ones: Mapping[int, Sequence[float]], others: Mapping[int, Sequence[float]]) -> tuple[Verdict, str]:
        both = {k: (ones[k], others[k]) for k in ones}
        text = ", ".join(f"K = {k}: {_range(one)} against {_range(other)}" for k, (one, other) in both.items())
        seeds = min(len(values) for pair in both.values() for values in pair)
        lower = all(max(one) < min(other) for one, other in both.values())
        higher = all(min(one) > max(other) for one, other in both.values())
        verdict = OPEN if seeds < 2 else HELD if lower else FAILED if higher else OPEN
        return verdict, f"{text}; range of {seeds} seeds, one network each"

    what = f"loss, {NAMES[first]} against {NAMES[second]}"
    return decided(what, f"{first}, losses", f"{second}, losses", by=by)


@item("dra/fig-7", "analysis")
def components(made: Mapping[str, Built]) -> Measured:
    """Accuracy over the principal components of the features."""
    analysis = made["analysis"]
    rows: list[Row] = []
    figures, numbers = [], dict[str, Any]()
    for name in (name for name in _TRAINED if analysis.has(f"figures/dimension-{name}.json")):
        curve = analysis.read(f"figures/dimension-{name}.json")
        peak = max(curve, key=lambda point: point["adversarial"])
        accuracies = {"clean, all components": curve[-1]["clean"], "robust, all components": curve[-1]["adversarial"]}
        accuracies |= {"robust, best": peak["adversarial"]}
        shown = {title: 100 * share for title, share in accuracies.items()}
        rows.append({"method": name, **shown, "components at the best": peak["k"], "of": curve[-1]["k"]})
        figures.append(Figure(f"accuracy over the components, {name}", "analysis", f"figures/dimension-{name}.png"))
        numbers[name] = {"peak": peak["adversarial"], "all": curve[-1]["adversarial"]}
    return Measured(
        tables=[Table("Accuracy over principal components, %", rows, "analysis")],
        figures=figures,
        numbers={"gains": {name: 100 * (found["peak"] - found["all"]) for name, found in numbers.items()}},
    )


@rule
def never_decided() -> Check:
    """The best K is chosen on the images that judge it, so its gain cannot be negative."""

    def by(gains: Mapping[str, float]) -> tuple[Verdict, str]:
        text = ", ".join(f"{name} {gain:+.1f} points" for name, gain in gains.items())
        return OPEN, f"{text}; the best number is chosen on the same images: results of each image are not kept"

    return decided("robust accuracy, best minus all components", "gains", by=by)


@item("dra/table-3", "analysis")
def dimensions(made: Mapping[str, Built]) -> Measured:
    """How many principal components a classifier's decision needs."""
    analysis = made["analysis"]
    images = analysis.read()["setting"]["images"] if analysis.has("result.json") else 0
    numbers: dict[str, Any] = {f"{name}, {which}": None for name in NAMES for which in ("CLS-95", "CLS-99", "robust")}
    rows: list[Row] = []
    for row in analysis.read("tables/dimension.json"):
        ranges = _ranges(analysis.read(f"figures/dimension-{row['method']}.json"), images)
        numbers |= {f"{row['method']}, {name}": (row[name], *found) for name, found in ranges.items()}
        rows.append({**row, **{f"{name}, 95%": "{} to {}".format(*found) for name, found in ranges.items()}})
    files = {row["method"]: f"figures/dimension-{row['method']}.png" for row in rows}
    return Measured(
        tables=[Table("Number of principal components", rows, "analysis")],
        figures=[
            Figure(f"accuracy over components, {name}", "analysis", file)
            for name, file in files.items()
            if analysis.has(file)
        ],
        numbers=numbers,
    )


def _ranges(curve: Sequence[Mapping[str, float]], images: int) -> dict[str, tuple[int, int]]:
    """The smallest and largest number of components that each dimension could be, from the images' sampling error.

    A curve's point counts as having reached a level if its 95% interval (as if its images were others) reaches it.
    """
    last = max(int(point["k"]) for point in curve)
    if not images:
        return dict.fromkeys(("CLS-95", "CLS-99", "robust"), (0, last))

    def error(share: float) -> float:
        return Z * math.sqrt(max(share * (1 - share), 1 / images) / images)

    found: dict[str, tuple[int, int]] = {}
    for name, share in (("CLS-95", 0.95), ("CLS-99", 0.99)):
        level = share * curve[-1]["clean"]
        maybe, surely = (
            [int(point["k"]) for point in curve if point["clean"] + sign * error(point["clean"]) >= level]
            for sign in (1, -1)
        )
        found[name] = (min(maybe, default=0), min(surely, default=last))
    peak = max(point["adversarial"] for point in curve[1:])
    near = [int(point["k"]) for point in curve[1:] if point["adversarial"] + error(peak) >= peak]
    return {**found, "robust": (min(near), max(near))}


@rule
def larger_dimension(better: str, worse: str, which: str) -> Check:
    """That one method's dimension is larger: the ranges that both could have must not overlap."""

    def by(*found: tuple[int, int, int]) -> tuple[Verdict, str]:
        (one, low, high), (other, least, most) = found
        text = f"{NAMES[better]} {one} ({low} to {high}) against {NAMES[worse]} {other} ({least} to {most})"
        return HELD if low > most else FAILED if high < least else OPEN, text

    return decided(f"{which} dimension", f"{better}, {which}", f"{worse}, {which}", by=by)
