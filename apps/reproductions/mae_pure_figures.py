"""Figures 1, 2, 4 to 8 of the MAE-Pure paper, from `analyze_purifier.py` and the table of settings."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from reproductions.attack_results import steps_of
from reproductions.claims import FAILED, HELD, Check, Claim, Finding, Numbers, above, everyone, larger, reaches
from reproductions.intervals import paired
from reproductions.item import Figure, Item, Outcome, Products, Row, Table
from reproductions.product import Made

if TYPE_CHECKING:
    from recipes.reproduction_plan import Plan

ADVERSARIAL, NOISY, CLEAN = "adversarial", "random signs", "clean"
_RANK = 0.8  # rank correlation from which two curves are said to move together


def _views(plan: "Plan") -> Products:
    return {"views": plan.views}


def _of(rows: Sequence[Mapping[str, Any]], **wanted: str) -> Mapping[str, Any]:
    """The row with these entries.

    Raises:
        KeyError: if there is none.
    """
    for row in rows:
        if all(row[key] == value for key, value in wanted.items()):
            return row
    raise KeyError(" ".join(wanted.values()))


def _at_radius(result: Mapping[str, Any], model: str, kind: str) -> Mapping[str, Any]:
    """The point of a curve over the radius at the threat's own radius."""
    eps = result["setting"]["eps"]
    points: list[Mapping[str, Any]] = result["over_radii"][model][kind]
    return min(points, key=lambda point: abs(float(point["position"]) - float(eps)))


def _figure_1(made: Mapping[str, Made]) -> Outcome:
    result = made["views"].read()
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for model in (name for name in result["over_radii"] if name in ("MAE", "RMAE")):
        attacked, noisy = (_at_radius(result, model, kind) for kind in (ADVERSARIAL, NOISY))
        purified = result["over_steps"][model][ADVERSARIAL][-1]
        losses = {
            "loss, clean": attacked["clean_loss"],
            "attacked": attacked["loss"],
            "random signs of the same size": noisy["loss"],
            "attacked, purified": purified["loss"],
        }
        share = _of(result["image_by_image"], model=model)["loss rises under attack %"]
        rows.append({"model": model, **losses, "images whose loss rises under attack, %": share})
        numbers |= {f"{model}, {name}": value for name, value in losses.items()}
        numbers[f"{model}, rises"] = share
        rise, left = (losses[name] - losses["loss, clean"] for name in ("attacked", "attacked, purified"))
        numbers[f"{model}, excess removed"] = 100 * (1 - left / rise) if rise > 0 else 0.0
    return Outcome(
        tables=[Table("Reconstruction loss of hidden patches, mean over images", rows, "views")],
        figures=[Figure("images, and what the autoencoder makes of them", "views", "figures/reconstructions-mae.png")],
        numbers=numbers,
    )


FIGURE_1 = Item(
    key="mae-pure/fig-1",
    paper="MAE-Pure",
    title="Reconstructions of clean, attacked and purified images",
    products=_views,
    look=_figure_1,
    claims=(
        Claim(
            "An attack on the classifier degrades the autoencoder's reconstruction, although the images look the same.",
            reaches("MAE, rises", 75, "images whose reconstruction loss rises", unit="%"),
        ),
        Claim(
            "It is the adversarial perturbation that does it: the loss is higher than under random noise of that size.",
            above("MAE, attacked", "MAE, random signs of the same size", "mean loss, attacked against random signs"),
        ),
        Claim(
            "After MAE-Pure the reconstruction is that of a clean image again.",
            reaches(
                "MAE, excess removed", 75, "share of the attack's rise of the loss that MAE-Pure removes", unit="%"
            ),
        ),
    ),
    remark="The paper shows one image of SVHN under AutoAttack; here the loss of all images, under PGD on the "
    "classifier, with random signs of the same size as a control that the paper does not have.",
)


def _figure_2(made: Mapping[str, Made]) -> Outcome:
    result = made["views"].read()
    rows = result["attention_of_hidden_patch"]
    numbers = {f"{row['model']}, {key}": value for row in rows for key, value in row.items() if key != "model"}
    return Outcome(
        tables=[
            Table("Share of a hidden patch's attention that lies elsewhere than on the clean image, %", rows, "views")
        ],
        figures=[Figure("attention of the hidden patch in the red box", "views", "figures/attention-mae.png")],
        numbers=numbers,
    )


FIGURE_2 = Item(
    key="mae-pure/fig-2-8",
    paper="MAE-Pure",
    title="Attention of a hidden patch, clean, attacked and purified",
    products=_views,
    look=_figure_2,
    claims=(
        Claim(
            "The attack moves the attention of a hidden patch more than random noise of the same size does.",
            above(
                "MAE, moved, adversarial %",
                "MAE, moved, random signs %",
                "attention moved, attack against noise",
                unit="%",
            ),
        ),
        Claim(
            "After MAE-Pure the attention is nearer to that of the clean image.",
            reaches("MAE, purified nearer than adversarial %", 66, "images whose attention comes nearer", unit="%"),
        ),
    ),
    remark="The paper shows three images; here the number is a mean over all of them.",
)


def _curves(made: Mapping[str, Made], models: tuple[str, ...]) -> Outcome:
    """Rank correlations of the curves of some networks, and how steeply they begin and end."""
    result = made["views"].read()
    rows = [row for row in result["rank_correlation"] if row["model"] in models]
    numbers: dict[str, Any] = {
        f"{row['model']}, {row['over']}, {row['images']}, {key}": row[key]
        for row in rows
        for key in ("AMV", "loss", "AMV with loss")
    }
    for model in models:
        if model not in result["over_radii"]:
            continue
        points = result["over_radii"][model][ADVERSARIAL]
        slopes = [
            (after["amv"] - before["amv"]) / (after["position"] - before["position"])
            for before, after in pairwise(points)
        ]
        numbers[f"{model}, flattening"] = slopes[0] / slopes[-1] if slopes[-1] > 0 else float("inf")
        for kind in (ADVERSARIAL, NOISY):
            numbers[f"{model}, AMV, {kind}"] = _at_radius(result, model, kind)["amv"]
    return Outcome(
        tables=[Table("Rank correlations of the curves' points", rows, "views")],
        figures=[
            Figure("loss and AMV over the radius", "views", "figures/amv-over-radius.png"),
            Figure("loss and AMV over the purification steps", "views", "figures/amv-over-steps.png"),
        ],
        numbers=numbers,
    )


def _together(model: str, axis: str, sign: int) -> Check:
    """AMV and loss both rise (+1) or fall (-1) along the axis."""

    def check(numbers: Numbers) -> Finding:
        found = {key: numbers[f"{model}, {axis}, {ADVERSARIAL}, {key}"] for key in ("AMV", "loss")}
        text = f"{model}, rank correlation with the {axis}: " + ", ".join(f"{key} {v:+.2f}" for key, v in found.items())
        return Finding(HELD if all(sign * value >= _RANK for value in found.values()) else FAILED, text)

    return check


def _shape(model: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"{model}: AMV and reconstruction loss rise together with the attack's radius.",
            _together(model, "radius", 1),
        ),
        Claim(
            f"{model}: AMV rises rapidly at the smallest radii and levels off.",
            reaches(f"{model}, flattening", 2, "slope of AMV at the smallest radii over that at the largest"),
        ),
    )


_NOISE = (
    "The paper has no control. Random signs of the same size move AMV too, which `table` and claims show beside it."
)
FIGURE_4 = Item(
    key="mae-pure/fig-4",
    paper="MAE-Pure",
    title="AMV and reconstruction loss over the radius and over the purification steps",
    products=_views,
    look=lambda made: _curves(made, ("MAE",)),
    claims=(
        *_shape("MAE"),
        Claim("AMV and loss fall together as MAE-Pure goes on.", _together("MAE", "steps", -1)),
        Claim(
            "AMV is a mark of adversarial perturbations: random signs of the same size move attention less.",
            above(f"MAE, AMV, {ADVERSARIAL}", f"MAE, AMV, {NOISY}", "AMV at the threat's radius, attack against noise"),
        ),
    ),
    remark="PGD on the classifier in place of AutoAttack; 100 images and more. " + _NOISE,
)
FIGURE_7 = Item(
    key="mae-pure/fig-7",
    paper="MAE-Pure",
    title="The same for MaskDiT",
    products=_views,
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
    for model, kinds in curves.items():
        first, last = kinds[ADVERSARIAL][0], kinds[ADVERSARIAL][-1]
        rows.append({"model": model, "AMV before": first["amv"], "AMV after": last["amv"], "steps": last["position"]})
        numbers |= {f"{model}, before": first["amv"], f"{model}, after": last["amv"]}
        numbers[f"{model}, share left"] = last["amv"] / first["amv"]
    return Outcome(
        tables=[Table("AMV of attacked images before and after purification", rows, "views")],
        figures=[Figure("AMV over the purification steps", "views", "figures/amv-of-robust.png")],
        numbers=numbers,
    )


def _tuned(model: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"R{model} is more sensitive: its AMV before purification is higher than {model}'s.",
            above(f"R{model}, before", f"{model}, before", f"AMV before purification, R{model} against {model}"),
        ),
        Claim(
            f"R{model}-Pure brings AMV down further than {model}-Pure.",
            everyone(
                above(f"{model}, after", f"R{model}, after", f"AMV after purification, {model} against R{model}"),
                above(f"{model}, share left", f"R{model}, share left", f"share of AMV left, {model} against R{model}"),
            ),
        ),
    )


FIGURE_6 = Item(
    key="mae-pure/fig-6",
    paper="MAE-Pure",
    title="AMV of robustly fine-tuned networks over the purification steps",
    products=_views,
    look=_figure_6,
    claims=(*_tuned("MAE"), *_tuned("MaskDiT")),
)


def _figure_5(made: Mapping[str, Made]) -> Outcome:
    table = made["sensitivity"]
    rows: list[Row] = []
    for name, case in table.read()["rows"].items():
        row, _, change = name.partition(" ")
        if row != "mae_pure":
            continue
        ball = case["balls"]["linf"]
        setting, _, value = change.partition("=")
        rows.append(
            {"setting": setting.replace("_", " "), "value": float(value), "clean": case["clean"]}
            | {
                "transfer": ball["attacks"]["transfer"],
                "BPDA": ball["attacks"]["bpda"],
                "worst of the two": ball["worst"],
            }
        )
    steps = steps_of(table, "mae_pure")
    none = steps[0][1] if steps and steps[0][0] == 0 else None
    numbers: dict[str, Any] = {}
    if none is not None:
        most = steps[-1][1]
        numbers["worst, most steps minus none"] = paired(most["balls"]["linf"]["right"], none["balls"]["linf"]["right"])
        numbers["clean, none minus most steps"] = paired(none["clean_right"], most["clean_right"])
        numbers["transfer, by steps"] = [case["balls"]["linf"]["attacks"]["transfer"]["estimate"] for _, case in steps]
    return Outcome(
        tables=[Table("MAE-Pure's settings, one changed at a time, %", rows, "sensitivity")],
        figures=[Figure("accuracy over MAE-Pure's settings", "sensitivity", "figures/sensitivity.png")],
        numbers=numbers,
    )


def _more_steps_help(numbers: Numbers) -> Finding:
    values = [100 * value for value in numbers["transfer, by steps"]]
    text = "accuracy under transfer, by number of steps: " + ", ".join(f"{value:.0f}%" for value in values)
    return Finding(HELD if values[-1] > values[0] + 5 else FAILED, text)


FIGURE_5 = Item(
    key="mae-pure/fig-5",
    paper="MAE-Pure",
    title="Sensitivity to step size, mask rate and number of iterations",
    products=lambda plan: {"sensitivity": plan.sensitivity},
    look=_figure_5,
    claims=(
        Claim(
            "More iterations purify more: accuracy rises under an attack that does not know the purifier.",
            _more_steps_help,
        ),
        Claim(
            "More iterations raise the robust accuracy.",
            larger("worst, most steps minus none", "most minus no steps, worst of transfer and BPDA"),
        ),
    ),
    remark="The paper prints no numbers and says that the figure 'confirms our theoretical analysis'; the claims are "
    "our reading. Each setting is judged by the two short attacks that choose settings.",
)

FIGURES = (FIGURE_1, FIGURE_2, FIGURE_4, FIGURE_5, FIGURE_6, FIGURE_7)
