"""Figures 6 to 8 and 10 of the DRA paper: what the classifiers' features are like, and the alignment's weight."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recipes.sweep import name_of

from reproductions.claims import FAILED, HELD, OPEN, Check, Claim, Finding, Limits, Numbers
from reproductions.dra_tables import limits
from reproductions.item import Figure, Item, Outcome, Products, Row, Table
from reproductions.product import Made

if TYPE_CHECKING:
    from recipes.reproduction_plan import Plan


def _analysis(plan: "Plan") -> Products:
    return {"analysis": plan.analysis}


def _figure_6(made: Mapping[str, Made]) -> Outcome:
    runs = made["analysis"].read("tables/sae.json")
    losses: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        losses.setdefault((run["method"], run["k"]), []).append(run["normalized_loss"])
    means = {key: sum(values) / len(values) for key, values in losses.items()}
    methods, ks = (list(dict.fromkeys(part)) for part in zip(*means, strict=True))
    rows: list[Row] = [{"method": name, **{f"K = {k}": means[name, k] for k in ks}} for name in methods]
    return Outcome(
        tables=[Table("Normalised reconstruction loss of TopK autoencoders, mean over seeds", rows, "analysis")],
        figures=[Figure("normalised reconstruction loss over K", "analysis", "figures/sae.png")],
        numbers={f"{name}, {k}": value for (name, k), value in means.items()} | {"ks": ks},
    )


def _easier(first: str, second: str) -> Check:
    def check(numbers: Numbers) -> Finding:
        pairs = [(k, numbers[f"{first}, {k}"], numbers[f"{second}, {k}"]) for k in numbers["ks"]]
        text = ", ".join(f"K = {k}: {one:.3g} against {other:.3g}" for k, one, other in pairs)
        lower = [one < other for _, one, other in pairs]
        verdict = HELD if all(lower) else FAILED if not any(lower) else OPEN
        return Finding(verdict, f"loss, {first.upper()} against {second.upper()}: {text}")

    return check


FIGURE_6 = Item(
    key="dra/fig-6",
    paper="DRA",
    title="Sparse autoencoders on the classifiers' features",
    products=lambda plan: {"analysis": plan.sparse},
    look=_figure_6,
    claims=(
        Claim("Synthetic images make features easier to disentangle.", _easier("dm-at", "at")),
        Claim("DRA makes them easier still.", _easier("dm-at+dra", "dm-at")),
    ),
    remark="The paper's are of ViT-B on ImageNet; here 64 features of a small wide ResNet.",
)


def _figure_7(made: Mapping[str, Made]) -> Outcome:
    analysis = made["analysis"]
    numbers: dict[str, Any] = {}
    rows: list[Row] = []
    figures = []
    for name in ("at", "at+dra", "dm-at", "dm-at+dra"):
        file = f"figures/dimension-{name}.json"
        if not analysis.has(file):
            continue
        curve = analysis.read(file)
        peak = max(curve, key=lambda point: point["adversarial"])
        rows.append(
            {
                "method": name,
                "clean, all components": curve[-1]["clean"],
                "robust, all components": curve[-1]["adversarial"],
            }
            | {"robust, best": peak["adversarial"], "components at the best": peak["k"], "of": curve[-1]["k"]}
        )
        figures.append(Figure(f"accuracy over the components, {name}", "analysis", f"figures/dimension-{name}.png"))
        numbers |= {f"{name}, peak": peak["adversarial"], f"{name}, all": curve[-1]["adversarial"]}
    return Outcome(
        tables=[Table("Accuracy over principal components (share)", rows, "analysis")], figures=figures, numbers=numbers
    )


def _peaks(numbers: Numbers) -> Finding:
    """Robust accuracy peaks before the last component, by more than one image in a hundred."""
    found = [name for name in ("at", "at+dra", "dm-at", "dm-at+dra") if f"{name}, peak" in numbers]
    gains = {name: 100 * (numbers[f"{name}, peak"] - numbers[f"{name}, all"]) for name in found}
    text = "robust accuracy, best minus all components: " + ", ".join(f"{n} {g:+.1f} points" for n, g in gains.items())
    large = [gain > 1 for gain in gains.values()]
    return Finding(HELD if all(large) else FAILED if not any(large) else OPEN, text)


FIGURE_7 = Item(
    key="dra/fig-7",
    paper="DRA",
    title="Accuracy when features are projected on their first principal components",
    products=_analysis,
    look=_figure_7,
    claims=(Claim("Robust accuracy first improves and then degrades as components are added.", _peaks),),
)


def _figure_8(made: Mapping[str, Made]) -> Outcome:
    swept = made["sweep"]
    result, weights = swept.read(), swept.product.config.grid["alignment.weight"]
    fixed = {name: values[0] for name, values in swept.product.config.grid.items() if name != "alignment.weight"}
    names = {name_of({**fixed, "alignment.weight": weight}): float(weight) for weight in weights}
    rows: list[Row] = []
    numbers: dict[str, Any] = {"weights": {}}
    for row in result["rows"]:
        weight = names[row["point"]]
        rows.append({"lambda": weight, "clean": limits(row["clean"]), "AutoAttack": limits(row["autoattack"])})
        if row["autoattack_difference"]:
            numbers["weights"][weight] = {
                kind: row[f"{kind}_difference"]["over_images"]["difference"] for kind in ("clean", "autoattack")
            }
    return Outcome(
        tables=[Table("DM-AT+DRA over the weight of the alignment; 0 is DM-AT, %", rows, "sweep")],
        figures=[Figure("accuracy over the weight", "sweep", "figures/weights.png")],
        numbers=numbers,
    )


def _improves_everywhere(numbers: Numbers) -> Finding:
    weights: Mapping[float, Mapping[str, Limits]] = numbers["weights"]
    cells = [limit for row in weights.values() for limit in row.values()]
    text = "difference from DM-AT in points (clean, AutoAttack): " + ", ".join(
        f"{weight:g}: {100 * row['clean']['estimate']:+.1f}, {100 * row['autoattack']['estimate']:+.1f}"
        for weight, row in weights.items()
    )
    if any(limit["high"] < 0 for limit in cells):
        return Finding(FAILED, text)
    return Finding(HELD if all(limit["low"] > 0 for limit in cells) else OPEN, text)


FIGURE_8 = Item(
    key="dra/fig-8",
    paper="DRA",
    title="Weight of the alignment",
    products=lambda plan: {"sweep": plan.sweep},
    look=_figure_8,
    claims=(Claim("DRA improves clean and robust accuracy at every weight.", _improves_everywhere),),
    contradictions=("The weight was chosen on CIFAR-100 by this figure, whose test images Table 1 reports.",),
    remark="One seed.",
)


def _figure_10(made: Mapping[str, Made]) -> Outcome:
    profiles = made["representations"].read()["gradients"]
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for name, values in profiles.items():
        present = [value for value in values if value is not None and value == value]
        third = max(1, len(present) // 3)
        bands = {"low": present[:third], "middle": present[third : 2 * third], "high": present[2 * third :]}
        sums = {band: 1e3 * sum(part) for band, part in bands.items()}
        rows.append({"aligned with": name, **{f"{band} frequencies": value for band, value in sums.items()}})
        numbers |= {f"{name}, {band}": value for band, value in sums.items()}
        numbers[f"{name}, middle and high"] = sums["middle"] + sums["high"]
    return Outcome(
        tables=[
            Table(
                "Change of the input gradients' spectrum against DM-AT, mean of each radius, in thousandths",
                rows,
                "representations",
            )
        ],
        figures=[
            Figure(
                "input gradients, DRA minus DM-AT, low frequencies upper left",
                "representations",
                "figures/gradients.png",
            )
        ],
        numbers=numbers,
    )


def _negative(name: str, what: str) -> Check:
    def check(numbers: Numbers) -> Finding:
        return Finding(HELD if numbers[name] < 0 else FAILED, f"{what}: {numbers[name]:+.3g} thousandths")

    return check


FIGURE_10 = Item(
    key="dra/fig-10",
    paper="DRA",
    title="Input gradients: alignment with the diffusion model and with a noisy-input encoder",
    products=lambda plan: {"representations": plan.representations},
    look=_figure_10,
    claims=(
        Claim(
            "Alignment with the diffusion model lowers the sensitivity to low frequencies.",
            _negative("diffusion model, low", "change at low frequencies"),
        ),
        Claim(
            "Alignment with the noisy-input encoder raises the sensitivity to middle and high frequencies.",
            lambda numbers: Finding(
                HELD if numbers["noisy-input encoder, middle and high"] > 0 else FAILED,
                f"change at middle and high frequencies: {numbers['noisy-input encoder, middle and high']:+.3g} "
                f"thousandths",
            ),
        ),
    ),
    contradictions=(
        "Section 5.6 calls the sensitivity to middle and high frequencies undesirable; Fig. 3a ties robustness to low "
        "ones, which DRA is said to lower here.",
    ),
)

FIGURES = (FIGURE_6, FIGURE_7, FIGURE_8, FIGURE_10)
