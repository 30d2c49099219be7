"""Theorems 3.1, 3.2 and J.1 of the MAE-Pure paper on real images."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Made
from rp_experiments.papers.claims import FAILED, HELD, OPEN, Claim, Finding, Numbers, estimated, everyone, lowest
from rp_experiments.papers.intervals import correlation, share_of
from rp_experiments.papers.item import Figure, Item, Outcome, Products, Table

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

RANK = 0.8  # rank correlation from which two numbers are said to move together


def _views(plan: "Plan") -> Products:
    return {"views": plan.views}


Rows = Sequence[Mapping[str, Any]]


def _theorem(name: str, pick: Callable[[Rows, Made], Mapping[str, Any]]) -> Callable[[Mapping[str, Made]], Outcome]:
    """How an item looks at one of the theorems of `analyze_purifier.py`; `pick` takes its numbers from the rows."""

    def look(made: Mapping[str, Made]) -> Outcome:
        rows = made["views"].read()[name]
        picture = name.replace("_", "-")
        return Outcome(
            tables=[Table("Both sides on real images", rows, "views")],
            figures=[Figure("both sides on real images", "views", f"figures/{picture}.png")],
            numbers=pick(rows, made["views"]),
        )

    return look


def _theorem_3_1(rows: Rows, made: Made) -> Mapping[str, Any]:
    first, last = rows[0], rows[-1]
    features = next(key for key in first if key.endswith("features / true"))
    return {
        "linear, smallest": abs(first["first order / true"] - 1),
        "linear, largest": abs(last["first order / true"] - 1),
        "features": max(abs(row[features] - 1) for row in rows),
        # matrices of one image are not independent: the images count
        "softmax": [correlation(row["with that of softmax"], made.product.config.kernel_images) for row in rows],
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
                estimated(
                    "linear, smallest", "distance of the median ratio from 1, smallest radius", held=0.1, failed=0.2
                ),
                estimated("linear, largest", "largest radius", held=0.1, failed=0.2),
            ),
        ),
        Claim(
            "Random features approximate it.",
            estimated("features", "distance of the median ratio from 1, worst radius", held=0.25, failed=0.5),
        ),
        Claim(
            "The same expression measures AMV, the variation of softmax attention.",
            lowest("softmax", RANK, "rank correlation with the variation of softmax over the radii"),
        ),
    ),
    contradictions=("Stated for AMV, which is of softmax attention; the proof is about its unnormalised kernel.",),
    remark="One draw of random features; medians over attention matrices without an interval. The interval of the rank "
    "correlation counts images, not matrices.",
)


def _theorem_3_2(rows: Rows, made: Made) -> Mapping[str, Any]:
    plain = [row for row in rows if row["model"] == "MAE"]
    setting = made.read()["setting"]
    attacked = [row for row in plain if row["images"].startswith("PGD") and row["eps"] == setting["eps"]]
    return {
        "holds": [share_of(row["holds with constant 0 %"], setting["images"]) for row in plain],
        "constant": min(row["largest constant, 95% of images"] for row in plain),
        "correlation": [correlation(row["squared AMV with rise of loss"], setting["images"]) for row in attacked],
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
                lowest("holds", 0.95, "images for which half of the clean loss is a bound at all", percent=True),
                estimated("constant", "largest constant for 95% of the images, worst row", held=1e-6, failed=0),
            ),
        ),
        Claim(
            "AMV drives the loss: image by image, more variation goes with a larger rise of the loss.",
            lowest("correlation", 0.3, "rank correlation of squared AMV with the rise of the loss, threat's radius"),
        ),
    ),
    contradictions=(
        "Several steps of the proof do not follow as printed (the split of the squared norm into three, the bound on "
        "the encoder's part); constants C_A, H and c_rec are never named, so that an inequality that holds for some "
        "constant says little.",
    ),
)


def _theorem_j_1(made: Mapping[str, Made]) -> Outcome:
    result = made["descent"].read()
    rows = result["rows"]
    return Outcome(
        tables=[Table("Both sides of the bound, a mean over masks of each image", rows, "descent")],
        numbers={
            "holds": [share_of(row["holds, % of images"], result["setting"]["images"]) for row in rows],
            "bounds": [
                max(row["right side, median"] for row in rows if row["steps"] == steps)
                for steps in sorted({row["steps"] for row in rows}, reverse=True)
            ],
        },
    )


def _shrinks(numbers: Numbers) -> Finding:
    """Held if the bound falls with every number of steps and at last by half; failed if it ends above its beginning."""
    bounds = numbers["bounds"]
    text = "right side, median, worst step size, most steps first: " + ", ".join(f"{bound:.3g}" for bound in bounds)
    falls = bounds == sorted(bounds) and bounds[0] < 0.5 * bounds[-1]
    verdict = HELD if falls else FAILED if bounds[0] >= bounds[-1] else OPEN
    return Finding(verdict, f"{text} (point estimates, no interval; rule: always falling, at last by half)")


THEOREM_J_1 = Item(
    key="mae-pure/theorem-j.1",
    paper="MAE-Pure",
    title="Theorem J.1: the purification converges",
    products=lambda plan: {"descent": plan.descent},
    look=_theorem_j_1,
    claims=(
        Claim(
            "The bound holds on real images.",
            lowest("holds", 0.95, "images, over step sizes and numbers of steps", percent=True),
        ),
        Claim("The bound goes to zero with the number of steps.", _shrinks),
    ),
    contradictions=(
        "The theorem is about plain gradient steps, the average of all iterates and a convex loss; the method takes "
        "signs and the last iterate. In its proof the convexity bound is taken at x and used at the attacked image.",
        "Algorithm 1 counts s up from 0 while s <= S: S + 1 steps, of which it returns the iterate S. The theorem's "
        "sum over gradients ends at S, at the end of its proof at S + 1.",
    ),
)

THEOREMS = (THEOREM_3_1, THEOREM_3_2, THEOREM_J_1)
