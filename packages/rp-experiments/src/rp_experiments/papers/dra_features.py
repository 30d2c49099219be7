"""Figures 6 to 8 and 10 of the DRA paper: what the classifiers' features are like, and the alignment's weight."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rp_models.data.catalog import describe

from rp_experiments.artifacts import Made
from rp_experiments.papers.claims import (
    FAILED,
    HELD,
    MARGIN,
    OPEN,
    Check,
    Claim,
    Finding,
    Limits,
    Numbers,
    close,
    combined,
    estimated,
    points,
    sign_of,
)
from rp_experiments.papers.dra_figures import PROBE
from rp_experiments.papers.dra_tables import limits
from rp_experiments.papers.intervals import separate
from rp_experiments.papers.item import Figure, Item, Outcome, Products, Row, Table
from rp_experiments.recipes.sweep import name_of

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan


def _analysis(plan: "Plan") -> Products:
    return {"analysis": plan.analysis}


def _figure_6(made: Mapping[str, Made]) -> Outcome:
    runs = made["analysis"].read("tables/sae.json")
    losses: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        losses.setdefault((run["method"], run["k"]), []).append(run["normalized_loss"])
    methods, ks = (list(dict.fromkeys(part)) for part in zip(*losses, strict=True))
    rows: list[Row] = [
        {"method": name, **{f"K = {k}": _range(losses[name, k]) for k in ks if (name, k) in losses}} for name in methods
    ]
    return Outcome(
        tables=[Table("Normalised reconstruction loss of TopK autoencoders, over their seeds", rows, "analysis")],
        figures=[Figure("normalised reconstruction loss over K", "analysis", "figures/sae.png")],
        numbers={f"{name}, {k}": values for (name, k), values in losses.items()} | {"ks": ks},
    )


def _range(values: list[float]) -> str:
    """`0.123 to 0.125` of several seeds."""
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _easier(first: str, second: str) -> Check:
    """Held if for every K each seed's loss of the first is below all of the second's; failed if above all."""

    def check(numbers: Numbers) -> Finding:
        pairs = {k: (numbers[f"{first}, {k}"], numbers[f"{second}, {k}"]) for k in numbers["ks"]}
        text = ", ".join(f"K = {k}: {_range(one)} against {_range(other)}" for k, (one, other) in pairs.items())
        seeds = min(len(values) for both in pairs.values() for values in both)
        text = f"loss, {first.upper()} against {second.upper()}: {text}; range of {seeds} seeds, one network each"
        lower = all(max(one) < min(other) for one, other in pairs.values())
        higher = all(min(one) > max(other) for one, other in pairs.values())
        return Finding(OPEN if seeds < 2 else HELD if lower else FAILED if higher else OPEN, text)

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
    remark="The paper's are of ViT-B on ImageNet; here 64 features of a small wide ResNet, one network of each method. "
    "One method's losses are lower if those of all seeds are, for every K; fewer than two seeds decide nothing.",
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
    """Never decided: the best K is chosen on the images that judge it, so its gain cannot be negative."""
    found = [name for name in ("at", "at+dra", "dm-at", "dm-at+dra") if f"{name}, peak" in numbers]
    gains = {name: 100 * (numbers[f"{name}, peak"] - numbers[f"{name}, all"]) for name in found}
    text = "robust accuracy, best minus all components: " + ", ".join(f"{n} {g:+.1f} points" for n, g in gains.items())
    return Finding(OPEN, f"{text}; the best number is chosen on the same images: results of each image are not kept")


FIGURE_7 = Item(
    key="dra/fig-7",
    paper="DRA",
    title="Accuracy when features are projected on their first principal components",
    products=_analysis,
    look=_figure_7,
    claims=(Claim("Robust accuracy first improves and then degrades as components are added.", _peaks),),
    contradictions=(
        "The peak is the largest of many numbers from the same test images; the paper says nothing of another split.",
    ),
)


def _figure_8(made: Mapping[str, Made]) -> Outcome:
    swept = made["sweep"]
    result, weights = swept.read(), swept.product.config.grid["alignment.weight"]
    fixed = {name: values[0] for name, values in swept.product.config.grid.items() if name != "alignment.weight"}
    names = {name_of({**fixed, "alignment.weight": weight}): float(weight) for weight in weights}
    rows: list[Row] = []
    numbers: dict[str, Any] = {"weights": {}, "AutoAttack": {}}
    for row in result["rows"]:
        weight = names[row["point"]]
        rows.append({"lambda": weight, "clean": limits(row["clean"]), "AutoAttack": limits(row["autoattack"])})
        numbers["AutoAttack"][weight] = limits(row["autoattack"])
        if row["autoattack_difference"]:
            numbers["weights"][weight] = {
                kind: _with_p(row[f"{kind}_difference"]["over_images"]) for kind in ("clean", "autoattack")
            }
    return Outcome(
        tables=[Table("DM-AT+DRA over the weight of the alignment; 0 is DM-AT, %", rows, "sweep")],
        figures=[Figure("accuracy over the weight", "sweep", "figures/weights.png")],
        numbers=numbers,
    )


def _with_p(comparison: Mapping[str, Any]) -> Limits:
    """The difference on the same images with McNemar's p-value."""
    return {**comparison["difference"], "p": comparison["p_value"]}


def _improves_everywhere(numbers: Numbers) -> Finding:
    weights: Mapping[float, Mapping[str, Limits]] = numbers["weights"]
    text = "difference from DM-AT in points (clean, AutoAttack): " + ", ".join(
        f"{weight:g}: {100 * row['clean']['estimate']:+.1f}, {100 * row['autoattack']['estimate']:+.1f}"
        for weight, row in weights.items()
    )
    return Finding(combined(sign_of(cell) for row in weights.values() for cell in row.values()), text)


def _saturates(numbers: Numbers) -> Finding:
    """Held if the largest weight is at most a point above the paper's 1.2; failed if it is above for sure."""
    found: Mapping[float, Limits] = numbers["AutoAttack"]
    chosen, largest = min(found, key=lambda weight: abs(weight - 1.2)), max(found)
    gap = separate(found[largest], found[chosen])
    text = f"AutoAttack, weight {largest:g} minus {chosen:g}: {points(gap)} (rule: at most 1 point more)"
    verdict = HELD if gap["high"] <= 0.01 else FAILED if gap["low"] > 0 else OPEN
    return Finding(OPEN if largest == chosen else verdict, text)


FIGURE_8 = Item(
    key="dra/fig-8",
    paper="DRA",
    title="Weight of the alignment",
    products=lambda plan: {"sweep": plan.sweep},
    look=_figure_8,
    claims=(
        Claim("DRA improves clean and robust accuracy at every weight.", _improves_everywhere),
        Claim("With a large weight the gain in robustness saturates.", _saturates),
    ),
    contradictions=("The weight was chosen on CIFAR-100 by this figure, whose test images Table 1 reports.",),
    remark="One seed.",
)


def _figure_10(made: Mapping[str, Made]) -> Outcome:
    result, curves = made["representations"].read(), made["probe"].read()["curves"]
    pixels = describe(result["setting"]["data"]).image_size ** 2
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for name, values in result["gradients"].items():
        present = [value for value in values if value is not None and value == value]
        third = max(1, len(present) // 3)
        bands = {"low": present[:third], "middle": present[third : 2 * third], "high": present[2 * third :]}
        # in percent of what a flat spectrum has there
        shares = {band: 100 * pixels * sum(part) / max(1, len(part)) for band, part in bands.items()}
        rows.append({"aligned with": name, **{f"{band} frequencies": value for band, value in shares.items()}})
        numbers[f"{name}, low"] = shares["low"]
        numbers[f"{name}, middle and high"] = 100 * pixels * sum(present[third:]) / max(1, len(present) - third)
    clean = {name: at_zero(curve) for name, curve in curves.items()}
    if "noisy encoder" in clean:
        numbers["noisy encoder minus probe, clean"] = separate(clean["noisy encoder"], clean[PROBE])
    accuracy: list[Row] = [{"classifier": name, "clean": cell} for name, cell in clean.items()]
    return Outcome(
        tables=[
            Table(
                "Change of each frequency's share of the input gradients against DM-AT, mean over radii, in percent of "
                "the share that it has in a flat spectrum",
                rows,
                "representations",
            ),
            Table("Accuracy without attack, %", accuracy, "probe"),
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


def at_zero(curve: Mapping[str, Any]) -> Limits:
    """The accuracy without attack of a curve over the radius."""
    return {"estimate": curve["accuracy"][0], "low": curve["low"][0], "high": curve["high"][0]}


_SHARE = 100 * MARGIN  # for one number of one network without an interval

FIGURE_10 = Item(
    key="dra/fig-10",
    paper="DRA",
    title="Input gradients: alignment with the diffusion model and with a noisy-input encoder (Appendix E)",
    products=lambda plan: {"representations": plan.representations, "probe": plan.probe},
    look=_figure_10,
    claims=(
        Claim(
            "Alignment with the diffusion model lowers the share of low frequencies.",
            estimated(
                "diffusion model, low",
                "change of the share at low frequencies",
                held=-_SHARE,
                failed=_SHARE,
                unit="% of a flat spectrum's",
            ),
        ),
        Claim(
            "Alignment with the noisy-input encoder raises the share of middle and high frequencies.",
            estimated(
                "noisy-input encoder, middle and high",
                "change of the share at middle and high frequencies",
                held=_SHARE,
                failed=-_SHARE,
                unit="% of a flat spectrum's",
            ),
        ),
        Claim(
            "The noisy-input encoder classifies about as well as the linear probe on diffusion features.",
            close("noisy encoder minus probe, clean", 0.05, "noisy-input encoder minus probe, clean images"),
        ),
    ),
    contradictions=(
        "Section 5.6 calls the sensitivity to middle and high frequencies undesirable; Fig. 3a ties robustness to low "
        "ones, which DRA is said to lower here.",
    ),
    remark="Each map is divided by its own sum, so this is about shares, not about the size of gradients: a smaller "
    "share of low frequencies is a larger one of the others, and the claims about both are not two findings. The paper "
    "does not say whether it does so. One network each and one number, without an interval.",
)

FIGURES = (FIGURE_6, FIGURE_7, FIGURE_8, FIGURE_10)
