"""Figures 1, 3, 4, 5 and 9 of the DRA paper: similarity, frequencies, robustness and geometry of features."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Made
from rp_experiments.papers.claims import (
    FAILED,
    HELD,
    MARGIN,
    OPEN,
    Claim,
    Finding,
    Limits,
    Numbers,
    between,
    everyone,
    exceeds,
    larger,
    points,
    together,
    widened,
)
from rp_experiments.papers.intervals import correlation, rank_test, separate
from rp_experiments.papers.item import Figure, Item, Outcome, Products, Row, Table

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

PROBE, DIFFUSION = "diffusion probe", "diffusion representation"


def _analysis(plan: "Plan") -> Products:
    return {"analysis": plan.analysis}


def _both(plan: "Plan") -> Products:
    return {"analysis": plan.analysis, "representations": plan.representations}


def _figure_1(made: Mapping[str, Made]) -> Outcome:
    rows = made["analysis"].read("tables/similarity.json")
    similar = made["representations"].read()["similarity"]
    robust = {row["method"]: row["robust accuracy %"] for row in rows}
    names = [name for name in similar if name in robust]
    others = [name for name in names if name != "standard"]  # a network is as similar to itself as can be
    numbers = {
        "all, diffusion": _rank([robust[name] for name in names], [similar[name]["with diffusion"] for name in names]),
        "others, diffusion": _rank(
            [robust[name] for name in others], [similar[name]["with diffusion"] for name in others]
        ),
        "others, standard": _rank(
            [robust[name] for name in others], [similar[name].get("with standard") for name in others]
        ),
    }
    table: list[Row] = [
        {"method": name, "robust accuracy %": robust.get(name), **cells} for name, cells in similar.items()
    ]
    return Outcome(
        tables=[
            Table("CKNNA with the diffusion model's features", rows, "analysis"),
            Table(
                "CKNNA with the diffusion model's and with the standard classifier's features", table, "representations"
            ),
        ],
        figures=[Figure("CKNNA and robust accuracy", "analysis", "figures/cknna.png")],
        numbers=numbers,
    )


def _rank(robust: list[float], scores: list[float | None]) -> dict[str, float] | None:
    """The rank correlation of robust accuracy with a similarity; None if there is none for each classifier."""
    present = [score for score in scores if score is not None]
    return rank_test(robust, present) if len(present) == len(robust) >= 2 else None


def _stronger(numbers: Numbers) -> Finding:
    """Whether one correlation is above the other, over the same classifiers: their intervals must not overlap."""
    one, other = numbers["others, diffusion"], numbers["others, standard"]
    if one is None or other is None:
        return Finding(OPEN, "no standard classifier to compare with")
    text = (
        f"rank correlation of robust accuracy with the similarity to diffusion features {one['estimate']:+.2f} "
        f"(p = {one['p']:.2g}), to standard ones {other['estimate']:+.2f} (p = {other['p']:.2g}), over "
        f"{one['points']:.0f} classifiers"
    )
    first, second = (correlation(test["estimate"], int(test["points"])) for test in (one, other))
    if first is None or second is None:
        return Finding(OPEN, f"{text}: too few for an interval")
    verdict = HELD if first["low"] > second["high"] else FAILED if first["high"] < second["low"] else OPEN
    return Finding(verdict, f"{text}; intervals {between(first)} and {between(second)}")


FIGURE_1 = Item(
    key="dra/fig-1-9",
    paper="DRA",
    title="Similarity with the diffusion model and robust accuracy",
    products=_both,
    look=_figure_1,
    claims=(
        Claim(
            "Robust accuracy and similarity with diffusion features are (weakly) correlated.",
            together(("all, diffusion",), 1, 0.3, "rank correlation of robust accuracy with the similarity"),
        ),
        Claim("The correlation is stronger than that with a standard classifier's features (Fig. 9).", _stronger),
    ),
    remark="The paper's points are the CIFAR-10 models of RobustBench; here the classifiers of one run, too few for a "
    "correlation that is not nearly perfect.",
)


def _figure_3a(made: Mapping[str, Made]) -> Outcome:
    rows = made["analysis"].read("tables/frequency.json")
    share = next(key for key in rows[0] if key.startswith("energy"))
    return Outcome(
        tables=[Table("Low-frequency share of PGD perturbations", rows, "analysis")],
        figures=[Figure("spectra of PGD perturbations, low frequencies centred", "analysis", "figures/saliency.png")],
        numbers={row["model"]: row[share] for row in rows},
    )


FIGURE_3A = Item(
    key="dra/fig-3a",
    paper="DRA",
    title="Frequencies that perturbations use",
    products=_analysis,
    look=_figure_3a,
    claims=(
        Claim(
            "Perturbations of the probe on diffusion features lie at lower frequencies than those of standard "
            "training.",
            exceeds(PROBE, "standard", "energy at low frequencies, probe against standard training", unit="%"),
        ),
        Claim(
            "Those of adversarial training do too.",
            exceeds("at", "standard", "energy at low frequencies, AT against standard training", unit="%"),
        ),
    ),
    remark="A digit of 8x8 pixels has three frequencies along an axis beside the mean: what is low is coarse "
    "there. One number for each network, without an interval.",
)


def _figure_3b(made: Mapping[str, Made]) -> Outcome:
    curves = made["probe"].read()["curves"]
    radii = next(iter(curves.values()))["eps"]
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for name, curve in curves.items():
        cells = [
            {"estimate": estimate, "low": low, "high": high}
            for estimate, low, high in zip(curve["accuracy"], curve["low"], curve["high"], strict=True)
        ]
        rows.append({"classifier": name, **{f"{radius:.3g}": cell for radius, cell in zip(radii, cells, strict=True)}})
        numbers[name] = cells
    if "standard" in numbers:
        for at, radius in enumerate(radii):  # up to half of the threat's
            if 0 < radius <= radii[-1] / 2:
                numbers.setdefault("small radii", {})[f"{radius:.3g}"] = separate(
                    numbers[PROBE][at], numbers["standard"][at]
                )
    if "at" in numbers:
        numbers["full radius"] = separate(numbers["at"][-1], numbers[PROBE][-1])
    return Outcome(
        tables=[Table("Accuracy over the Linf radius, %", rows, "probe")],
        figures=[Figure("accuracy over the radius", "probe", "figures/curves.png")],
        numbers=numbers,
    )


def _at_small_radii(numbers: Numbers) -> Finding:
    """Held if the probe is above at a small radius and nowhere below; failed if below somewhere and nowhere above."""
    gaps: Mapping[str, Limits] = numbers["small radii"]
    wide = [widened(gap, len(gaps)) for gap in gaps.values()]
    above, below = any(gap["low"] > 0 for gap in wide), any(gap["high"] < 0 for gap in wide)
    text = ", ".join(f"radius {at} {points(gap)}" for at, gap in zip(gaps, wide, strict=True))
    verdict = HELD if above and not below else FAILED if below and not above else OPEN
    return Finding(verdict, f"probe minus standard training, 95% for all of them together: {text}")


FIGURE_3B = Item(
    key="dra/fig-3b",
    paper="DRA",
    title="Robust accuracy of a probe on frozen diffusion features, over the radius",
    products=lambda plan: {"probe": plan.probe},
    look=_figure_3b,
    claims=(
        Claim("At small radii the probe is more robust than standard training.", _at_small_radii),
        Claim(
            "It is far from adversarial training: diffusion features need robust training.",
            larger("full radius", "AT minus probe at the threat's radius"),
        ),
    ),
    remark="The probe's noise is fixed and known to the attack. The images are the same, the intervals of differences "
    "those of separate images.",
)


def _figure_4(made: Mapping[str, Made]) -> Outcome:
    geometry = made["representations"].read()["geometry"]
    rows: list[Row] = [{"features": name, **cells} for name, cells in geometry.items()]
    numbers = {f"{name}, {key}": value for name, cells in geometry.items() for key, value in cells.items()}
    return Outcome(
        tables=[Table("Alignment and uniformity, higher is more", rows, "representations")],
        figures=[Figure("alignment and uniformity of the classifiers", "analysis", "figures/geometry.png")],
        numbers=numbers,
    )


def _aligned(numbers: Numbers) -> Finding:
    """Not testable where the features of all images are nearly the same: then attacked ones are near in any case."""
    check = exceeds(f"{DIFFUSION}, alignment", "standard, alignment", "alignment, diffusion against standard")
    spread, usual = numbers[f"{DIFFUSION}, uniformity"], numbers["standard, uniformity"]
    finding = check(numbers)
    if spread >= MARGIN * usual:
        return finding
    text = f"but diffusion features hardly differ between images, uniformity {spread:.3g} against {usual:.3g}"
    return Finding(OPEN, f"{finding.evidence}; {text}")


FIGURE_4 = Item(
    key="dra/fig-4",
    paper="DRA",
    title="Alignment and uniformity: standard, adversarial, diffusion",
    products=_both,
    look=_figure_4,
    claims=(
        Claim("Diffusion features are more robust (better aligned) than those of standard training.", _aligned),
        Claim(
            "They are richer (more uniform) than those of standard training.",
            exceeds(f"{DIFFUSION}, uniformity", "standard, uniformity", "uniformity, diffusion against standard"),
        ),
        Claim(
            "Adversarial training raises alignment and lowers uniformity.",
            everyone(
                exceeds("at, alignment", "standard, alignment", "alignment, AT against standard"),
                exceeds("standard, uniformity", "at, uniformity", "uniformity, standard against AT"),
            ),
        ),
    ),
    remark="The diffusion features are attacked through a linear probe on them. One number each, without an interval.",
)


def _figure_5(made: Mapping[str, Made]) -> Outcome:
    rows = made["analysis"].read("tables/geometry.json")
    numbers = {f"{row['name']}, {key}": row[key] for row in rows for key in ("alignment", "uniformity")}
    return Outcome(
        tables=[Table("Alignment and uniformity, higher is more", rows, "analysis")],
        figures=[Figure("with (clean, robust) accuracy", "analysis", "figures/geometry.png")],
        numbers=numbers,
    )


FIGURE_5 = Item(
    key="dra/fig-5",
    paper="DRA",
    title="Alignment and uniformity with DRA",
    products=_analysis,
    look=_figure_5,
    claims=(
        Claim(
            "DRA makes features richer: uniformity rises.",
            everyone(
                *(
                    exceeds(
                        f"{base}+dra, uniformity",
                        f"{base}, uniformity",
                        f"uniformity, {base.upper()}+DRA against {base.upper()}",
                    )
                    for base in ("at", "dm-at")
                )
            ),
        ),
    ),
    remark="One network of each method and one number for each, without an interval.",
)

FIGURES = (FIGURE_1, FIGURE_3A, FIGURE_3B, FIGURE_4, FIGURE_5)
