"""Theorems 3.1, 3.2 and J.1 of the MAE-Pure paper on real images."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reproductions.claims import FAILED, HELD, Claim, Finding, Numbers, everyone, reaches
from reproductions.item import Figure, Item, Outcome, Products, Table
from reproductions.product import Made

if TYPE_CHECKING:
    from recipes.reproduction_plan import Plan

RANK = 0.8  # rank correlation from which two numbers are said to move together


def _views(plan: "Plan") -> Products:
    return {"views": plan.views}


def _theorem(
    name: str, pick: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
) -> Callable[[Mapping[str, Made]], Outcome]:
    """How an item looks at one of the theorems of `analyze_purifier.py`; `pick` takes its numbers from the rows."""

    def look(made: Mapping[str, Made]) -> Outcome:
        rows = made["views"].read()[name]
        picture = name.replace("_", "-")
        return Outcome(
            tables=[Table("Both sides on real images", rows, "views")],
            figures=[Figure("both sides on real images", "views", f"figures/{picture}.png")],
            numbers=pick(rows),
        )

    return look


def _theorem_3_1(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    first, last = rows[0], rows[-1]
    features = next(key for key in first if key.endswith("features / true"))
    return {
        "linear, smallest": -abs(first["first order / true"] - 1),
        "linear, largest": -abs(last["first order / true"] - 1),
        "features": -max(abs(row[features] - 1) for row in rows),
        "softmax": min(row["with that of softmax"] for row in rows),
    }


THEOREM_3_1 = Item(
    key="mae-pure/theorem-3.1",
    paper="MAE-Pure",
    title="Theorem 3.1: attention variation by random features",
    products=_views,
    look=_theorem("theorem_3_1", _theorem_3_1),
    claims=(
        Claim(
            "The variation of unnormalised attention is linear in the shift of the features.",
            everyone(
                reaches("linear, smallest", -0.1, "distance of the median ratio from 1, smallest radius"),
                reaches("linear, largest", -0.1, "largest radius"),
            ),
        ),
        Claim(
            "Random features approximate it.",
            reaches("features", -0.25, "distance of the median ratio from 1, worst radius"),
        ),
        Claim(
            "The same expression measures AMV, the variation of softmax attention.",
            reaches("softmax", RANK, "lowest rank correlation with the variation of softmax"),
        ),
    ),
    contradictions=("Stated for AMV, which is of softmax attention; the proof is about its unnormalised kernel.",),
)


def _theorem_3_2(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    plain = [row for row in rows if row["model"] == "MAE"]
    return {
        "holds": min(row["holds with constant 0 %"] for row in plain),
        "constant": min(row["largest constant, 95% of images"] for row in plain),
        "correlation": min(row["squared AMV with rise of loss"] for row in plain),
    }


THEOREM_3_2 = Item(
    key="mae-pure/theorem-3.2",
    paper="MAE-Pure",
    title="Theorem 3.2: the reconstruction loss is bounded from below by AMV",
    products=_views,
    look=_theorem("theorem_3_2", _theorem_3_2),
    claims=(
        Claim(
            "The inequality holds on real images with some positive constant, c_rec = 0.",
            everyone(
                reaches("holds", 95, "images for which half of the clean loss is a bound at all, worst row", unit="%"),
                reaches("constant", 1e-6, "largest constant for 95% of the images, worst row"),
            ),
        ),
        Claim(
            "AMV drives the loss: image by image, more variation goes with a larger rise of the loss.",
            reaches("correlation", 0.3, "lowest rank correlation of squared AMV with the rise of the loss"),
        ),
    ),
    contradictions=(
        "Several steps of the proof do not follow as printed (the split of the squared norm into three, the bound on "
        "the encoder's part); constants C_A, H and c_rec are never named, so that an inequality that holds for some "
        "constant says little.",
    ),
)


def _theorem_j_1(made: Mapping[str, Made]) -> Outcome:
    rows = made["descent"].read()["rows"]
    return Outcome(
        tables=[Table("Both sides of the bound, a mean over masks of each image", rows, "descent")],
        numbers={
            "holds": min(row["holds, % of images"] for row in rows),
            "bounds": [
                max(row["right side, median"] for row in rows if row["steps"] == steps)
                for steps in sorted({row["steps"] for row in rows}, reverse=True)
            ],
        },
    )


def _shrinks(numbers: Numbers) -> Finding:
    bounds = numbers["bounds"]
    text = "right side, median, worst step size, most steps first: " + ", ".join(f"{bound:.3g}" for bound in bounds)
    return Finding(HELD if bounds == sorted(bounds) and bounds[0] < 0.5 * bounds[-1] else FAILED, text)


THEOREM_J_1 = Item(
    key="mae-pure/theorem-j.1",
    paper="MAE-Pure",
    title="Theorem J.1: the purification converges",
    products=lambda plan: {"descent": plan.descent},
    look=_theorem_j_1,
    claims=(
        Claim("The bound holds on real images.", reaches("holds", 95, "images, worst step size and steps", unit="%")),
        Claim("The bound goes to zero with the number of steps.", _shrinks),
    ),
    contradictions=(
        "The theorem is about plain gradient steps, the average of all iterates and a convex loss; the method takes "
        "signs and the last iterate. In its proof the convexity bound is taken at x and used at the attacked image.",
    ),
)

THEOREMS = (THEOREM_3_1, THEOREM_3_2, THEOREM_J_1)
