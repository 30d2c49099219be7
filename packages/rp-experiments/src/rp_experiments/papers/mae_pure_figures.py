"""Figures 1, 2 and 8 of the MAE-Pure paper: what an attack does to reconstructions and to attention."""

from collections.abc import Mapping, Sequence
from typing import Any

from rp_experiments.artifacts import Made
from rp_experiments.papers.claims import Claim, Limits, exceeds, reaches
from rp_experiments.papers.intervals import of_means, share_of
from rp_experiments.papers.item import Figure, Item, Outcome, Row, Table
from rp_experiments.papers.mae_pure_curves import (
    ADVERSARIAL,
    FIGURE_4,
    FIGURE_6,
    FIGURE_7,
    NOISY,
    at_radius,
    minus,
    views,
)
from rp_experiments.papers.mae_pure_sensitivity import FIGURE_5


def _of(rows: Sequence[Mapping[str, Any]], **wanted: str) -> Mapping[str, Any]:
    """The row with these entries.

    Raises:
        KeyError: if there is none.
    """
    for row in rows:
        if all(row[key] == value for key, value in wanted.items()):
            return row
    raise KeyError(" ".join(wanted.values()))


def _figure_1(made: Mapping[str, Made]) -> Outcome:
    result = made["views"].read()
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for model in (name for name in result["over_radii"] if name in ("MAE", "RMAE")):
        attacked, noisy = (at_radius(result, model, kind) for kind in (ADVERSARIAL, NOISY))
        purified = result["over_steps"][model][ADVERSARIAL][-1]
        losses = {
            "loss, clean": attacked["clean_loss"],
            "attacked": attacked["loss"],
            "random signs of the same size": noisy["loss"],
            "attacked, purified": purified["loss"],
        }
        share = _of(result["image_by_image"], model=model)["loss rises under attack %"]
        rows.append({"model": model, **losses, "images whose loss rises under attack, %": share})
        numbers[f"{model}, rises"] = share_of(share, result["setting"]["images"])
        numbers[f"{model}, attacked minus noisy"] = minus(attacked, noisy, "loss")
        numbers[f"{model}, excess removed"] = _removed(result["over_radii"][model][ADVERSARIAL][0], attacked, purified)
    return Outcome(
        tables=[Table("Reconstruction loss of hidden patches, mean over images", rows, "views")],
        figures=[Figure("images, and what the autoencoder makes of them", "views", "figures/reconstructions-mae.png")],
        numbers=numbers,
    )


def _removed(clean: Mapping[str, Any], attacked: Mapping[str, Any], purified: Mapping[str, Any]) -> Limits | None:
    """The share of the loss's rise that purification takes away; None where the rise is not sure.

    Its error is that of a ratio, to first order, as if the errors of the three means were independent.
    """
    rise, left = attacked["loss"] - clean["loss"], purified["loss"] - clean["loss"]
    if minus(attacked, clean, "loss")["low"] <= 0:
        return None
    terms = of_means(
        (left / rise**2, attacked["loss"], attacked["loss_error"]),
        (-1 / rise, purified["loss"], purified["loss_error"]),
        ((rise - left) / rise**2, clean["loss"], clean["loss_error"]),
    )
    removed = 1 - left / rise
    return {key: removed + value - terms["estimate"] for key, value in terms.items()}


FIGURE_1 = Item(
    key="mae-pure/fig-1",
    paper="MAE-Pure",
    title="Reconstructions of clean, attacked and purified images",
    products=views,
    look=_figure_1,
    claims=(
        Claim(
            "An attack on the classifier degrades the autoencoder's reconstruction, although the images look the same.",
            reaches("MAE, rises", 0.75, "images whose reconstruction loss rises", percent=True),
        ),
        Claim(
            "It is the adversarial perturbation that does it: the loss is higher than under random noise of that size.",
            reaches("MAE, attacked minus noisy", 0.0, "mean loss, attacked minus random signs"),
        ),
        Claim(
            "After MAE-Pure the reconstruction is that of a clean image again.",
            reaches(
                "MAE, excess removed",
                0.75,
                "share of the attack's rise of the loss that MAE-Pure removes",
                percent=True,
            ),
        ),
    ),
    remark="The paper shows one image of SVHN under AutoAttack; here the loss of all images, under PGD on the "
    "classifier, with random signs of the same size as a control that the paper does not have. Intervals of "
    "differences are those of separate images, wider than need be. MAE-Pure minimises this loss itself: a share above "
    "100% means that it falls below that of the clean image.",
)


def _figure_2(made: Mapping[str, Made]) -> Outcome:
    result = made["views"].read()
    rows = result["attention_of_hidden_patch"]
    numbers = {f"{row['model']}, {key}": value for row in rows for key, value in row.items() if key != "model"}
    for row in rows:
        share = row["purified nearer than adversarial %"]
        numbers[f"{row['model']}, nearer"] = share_of(share, result["setting"]["images"])
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
    products=views,
    look=_figure_2,
    claims=(
        Claim(
            "The attack moves the attention of a hidden patch more than random noise of the same size does.",
            exceeds(
                "MAE, moved, adversarial %",
                "MAE, moved, random signs %",
                "attention moved, attack against noise",
                unit="%",
            ),
        ),
        Claim(
            "After MAE-Pure the attention is nearer to that of the clean image.",
            reaches("MAE, nearer", 0.66, "images whose attention comes nearer", percent=True),
        ),
    ),
    remark="The paper shows three images; here the number is a mean over all of them.",
)


FIGURES = (FIGURE_1, FIGURE_2, FIGURE_4, FIGURE_5, FIGURE_6, FIGURE_7)
