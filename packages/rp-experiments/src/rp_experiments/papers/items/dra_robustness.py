"""Figures 3, 8 and 10 of the DRA paper: frequencies, accuracy over the radius, and the alignment's weight."""

from collections.abc import Mapping
from typing import Any

from rp_models.data.catalog import describe

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import FAILED, HELD, OPEN, Check, Verdict, combined, decided, points, rule, sign_of
from rp_experiments.papers.item import Measured, Table
from rp_experiments.papers.items.looks import curves, gap, item
from rp_experiments.recipes.sweep import name_of
from rp_experiments.results import Limits, limits
from rp_experiments.statistics import separate
from rp_experiments.tables import Row

PROBE = "diffusion probe"


@item("dra/fig-3a", "analysis")
def perturbations(made: Mapping[str, Built]) -> Measured:
    """Frequencies that perturbations use."""
    rows = made["analysis"].read("tables/frequency.json")
    share = next(key for key in rows[0] if key.startswith("energy"))
    table = Table("Low-frequency share of PGD perturbations", rows, "analysis")
    return Measured(tables=[table], numbers={row["model"]: row[share] for row in rows})


@item("dra/fig-3b", "probe")
def over_the_radius(made: Mapping[str, Built]) -> Measured:
    """Accuracy over the radius of a probe and of classifiers."""
    found = curves(made["probe"])
    rows: list[Row] = [
        {"classifier": name, **{f"{point['eps']:.3g}": limits(point) for point in curve}}
        for name, curve in found.items()
    ]
    probe, standard, at = (found.get(name, []) for name in (PROBE, "standard", "at"))
    small = {  # up to half of the threat's
        f"{one['eps']:.3g}": separate(one, other)
        for one, other in zip(probe, standard, strict=bool(standard))
        if 0 < one["eps"] <= probe[-1]["eps"] / 2
    }
    numbers = {"small radii": small or None, "full radius": separate(at[-1], probe[-1]) if at else None}
    return Measured(
        tables=[Table("Accuracy over the Linf radius, %", rows, "probe")],
        numbers={name: [limits(point) for point in curve] for name, curve in found.items()} | numbers,
    )


@item("dra/fig-8", "sweep")
def over_the_weight(made: Mapping[str, Built]) -> Measured:
    """Accuracy over the weight of the alignment."""
    grid = made["sweep"].artifact.config.grid
    fixed = {name: values[0] for name, values in grid.items() if name != "alignment.weight"}
    names = {name_of({**fixed, "alignment.weight": weight}): float(weight) for weight in grid["alignment.weight"]}
    rows: list[Row] = []
    numbers: dict[str, Any] = {"weights": {}, "AutoAttack": {}}
    for row in made["sweep"].read()["rows"]:
        weight, robust = names[row["point"]], limits(row["autoattack"])
        rows.append({"lambda": weight, "clean": limits(row["clean"]), "AutoAttack": robust})
        numbers["AutoAttack"][weight] = robust
        if row["autoattack_difference"]:
            both = {kind: row[f"{kind}_difference"]["over_images"] for kind in ("clean", "autoattack")}
            numbers["weights"][weight] = {
                kind: {**one["difference"], "p": one["p_value"]} for kind, one in both.items()
            }
    table = Table("DM-AT+DRA over the weight of the alignment; 0 is DM-AT, %", rows, "sweep")
    return Measured(tables=[table], numbers=numbers)


@rule
def better_at_every_weight() -> Check:
    """That clean and robust accuracy are above DM-AT's at every weight."""

    def by(weights: Mapping[float, Mapping[str, Limits]]) -> tuple[Verdict, str]:
        text = ", ".join(
            f"{weight:g}: {100 * row['clean']['estimate']:+.1f}, {100 * row['autoattack']['estimate']:+.1f}"
            for weight, row in weights.items()
        )
        return combined(sign_of(cell) for row in weights.values() for cell in row.values()), text

    return decided("difference from DM-AT in points (clean, AutoAttack)", "weights", by=by)


@rule
def saturates(usual: float) -> Check:
    """Held if the largest weight is at most a point above the paper's; failed if it is above for sure."""

    def by(found: Mapping[float, Limits]) -> tuple[Verdict, str]:
        chosen, largest = min(found, key=lambda weight: abs(weight - usual)), max(found)
        gap = separate(found[largest], found[chosen])
        text = f"weight {largest:g} minus {chosen:g}: {points(gap)} (rule: at most 1 point more)"
        verdict = HELD if gap["high"] <= 0.01 else FAILED if gap["low"] > 0 else OPEN
        return OPEN if largest == chosen else verdict, text

    return decided("AutoAttack", "AutoAttack", by=by)


@item("dra/fig-10", "representations", "probe")
def input_gradients(made: Mapping[str, Built]) -> Measured:
    """Frequencies of input gradients after alignment with two targets, against DM-AT's."""
    result = made["representations"].read()
    pixels = describe(result["setting"]["data"]).image_size ** 2
    rows: list[Row] = []
    numbers: dict[str, Any] = {"diffusion model, low": None, "noisy-input encoder, middle and high": None}
    for name, values in result["gradients"].items():
        present = [value for value in values if value is not None and value == value]
        third = max(1, len(present) // 3)
        bands = {"low": present[:third], "middle": present[third : 2 * third], "high": present[2 * third :]}
        bands["middle and high"] = present[third:]
        # in percent of what a flat spectrum has there
        shares = {band: 100 * pixels * sum(part) / max(1, len(part)) for band, part in bands.items()}
        rows.append(
            {"aligned with": name} | {f"{band} frequencies": shares[band] for band in ("low", "middle", "high")}
        )
        numbers |= {f"{name}, {band}": shares[band] for band in ("low", "middle and high")}
    clean = {name: limits(curve[0]) for name, curve in curves(made["probe"]).items()}
    numbers["noisy encoder minus probe, clean"] = gap(clean.get("noisy encoder"), clean[PROBE])
    title = "Change of each frequency's share of the input gradients against DM-AT, mean over radii, in percent of the "
    classifiers: list[Row] = [{"classifier": name, "clean": cell} for name, cell in clean.items()]
    return Measured(
        tables=[
            Table(f"{title}share that it has in a flat spectrum", rows, "representations"),
            Table("Accuracy without attack, %", classifiers, "probe"),
        ],
        numbers=numbers,
    )
