"""Figures 1, 3, 4, 5 and 9 of the DRA paper: similarity, frequencies, robustness and geometry of features."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reproductions.claims import FAILED, HELD, OPEN, Claim, Finding, Limits, Numbers, above, everyone, larger
from reproductions.intervals import separate
from reproductions.item import Figure, Item, Outcome, Products, Row, Table
from reproductions.product import Made

if TYPE_CHECKING:
    from recipes.reproduction_plan import Plan

PROBE, DIFFUSION = "diffusion probe", "diffusion representation"


def _analysis(plan: "Plan") -> Products:
    return {"analysis": plan.analysis}


def _both(plan: "Plan") -> Products:
    return {"analysis": plan.analysis, "representations": plan.representations}


def _figure_1(made: Mapping[str, Made]) -> Outcome:
    from rp_analysis import rank_correlation

    rows = made["analysis"].read("tables/similarity.json")
    result = made["representations"].read()
    similar = result["similarity"]
    robust = {row["method"]: row["robust accuracy %"] for row in rows}
    numbers: dict[str, Any] = {"models": len(rows)}
    for reference in ("diffusion", "standard"):
        key = f"with {reference}"
        pairs = [(robust[name], cells[key]) for name, cells in similar.items() if key in cells and name in robust]
        if reference == "standard":
            pairs = [(robust[name], similar[name][key]) for name in similar if name != "standard" and name in robust]
        if len(pairs) >= 3:
            numbers[reference] = rank_correlation(*map(list, zip(*pairs, strict=True)))
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


def _correlated(numbers: Numbers) -> Finding:
    text = f"rank correlation {numbers['diffusion']:+.2f} over {numbers['models']} classifiers"
    return Finding(OPEN if numbers["models"] < 8 else HELD if numbers["diffusion"] > 0.3 else FAILED, text)


FIGURE_1 = Item(
    key="dra/fig-1-9",
    paper="DRA",
    title="Similarity with the diffusion model and robust accuracy",
    products=_both,
    look=_figure_1,
    claims=(
        Claim("Robust accuracy and similarity with diffusion features are (weakly) correlated.", _correlated),
        Claim(
            "The correlation is stronger than that with a standard classifier's features (Fig. 9).",
            above(
                "diffusion", "standard", "rank correlation with robust accuracy, diffusion against standard features"
            ),
        ),
    ),
    remark="The paper's points are the CIFAR-10 models of RobustBench; here the classifiers of one run, too few for a "
    "correlation.",
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
            above(PROBE, "standard", "energy at low frequencies, probe against standard training", unit="%"),
        ),
        Claim(
            "Those of adversarial training do too.",
            above("at", "standard", "energy at low frequencies, AT against standard training", unit="%"),
        ),
    ),
    remark="An 8x8 image has three frequencies along an axis beside the mean; what is low is coarse.",
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
    small = range(1, max(2, len(radii) // 2 + 1))  # up to half of the radius
    if "standard" in numbers:
        gaps: list[Limits] = [separate(numbers[PROBE][at], numbers["standard"][at]) for at in small]
        numbers["small radii"] = max(gaps, key=lambda gap: gap["estimate"])
    if "at" in numbers:
        numbers["full radius"] = separate(numbers["at"][-1], numbers[PROBE][-1])
    return Outcome(
        tables=[Table("Accuracy over the Linf radius, %", rows, "probe")],
        figures=[Figure("accuracy over the radius", "probe", "figures/curves.png")],
        numbers=numbers,
    )


FIGURE_3B = Item(
    key="dra/fig-3b",
    paper="DRA",
    title="Robust accuracy of a probe on frozen diffusion features, over the radius",
    products=lambda plan: {"probe": plan.probe},
    look=_figure_3b,
    claims=(
        Claim(
            "At small radii the probe is more robust than standard training.",
            larger("small radii", "probe minus standard training, at the small radius where it gains most"),
        ),
        Claim(
            "It is far from adversarial training: diffusion features need robust training.",
            larger("full radius", "AT minus probe at the threat's radius"),
        ),
    ),
    remark="The probe's noise is fixed and known to the attack.",
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


FIGURE_4 = Item(
    key="dra/fig-4",
    paper="DRA",
    title="Alignment and uniformity: standard, adversarial, diffusion",
    products=_both,
    look=_figure_4,
    claims=(
        Claim(
            "Diffusion features are more robust (better aligned) than those of standard training.",
            above(f"{DIFFUSION}, alignment", "standard, alignment", "alignment, diffusion against standard"),
        ),
        Claim(
            "They are richer (more uniform) than those of standard training.",
            above(f"{DIFFUSION}, uniformity", "standard, uniformity", "uniformity, diffusion against standard"),
        ),
        Claim(
            "Adversarial training raises alignment and lowers uniformity.",
            everyone(
                above("at, alignment", "standard, alignment", "alignment, AT against standard"),
                above("standard, uniformity", "at, uniformity", "uniformity, standard against AT"),
            ),
        ),
    ),
    remark="The diffusion features are attacked through a linear probe on them.",
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
                    above(
                        f"{base}+dra, uniformity",
                        f"{base}, uniformity",
                        f"uniformity, {base.upper()}+DRA against {base.upper()}",
                    )
                    for base in ("at", "dm-at")
                )
            ),
        ),
    ),
)

FIGURES = (FIGURE_1, FIGURE_3A, FIGURE_3B, FIGURE_4, FIGURE_5)
