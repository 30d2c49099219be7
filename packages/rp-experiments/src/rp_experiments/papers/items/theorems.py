"""Theorems 3.1, 3.2 and J.1 of the MAE-Pure paper on real images."""

from collections.abc import Mapping, Sequence
from typing import Any

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import FAILED, HELD, OPEN, Check, Verdict, decided, rule
from rp_experiments.papers.item import Measured, Table
from rp_experiments.papers.items.looks import item, views_of
from rp_experiments.statistics import correlation, share_of

_ESTIMATED = "holds with the estimated constants %"


@item("mae-pure/theorem-3.1", products=views_of())
def random_features(made: Mapping[str, Built]) -> Measured:
    """Attention's variation by random features, over the radius."""
    views = made["views"]
    rows = views.read()["theorem_3_1"]
    features = next(key for key in rows[0] if key.endswith("features / true"))
    images = views.artifact.config.kernel_images  # matrices of one image are not independent: the images count
    numbers = {
        "linear, smallest": abs(rows[0]["first order / true"] - 1),
        "linear, largest": abs(rows[-1]["first order / true"] - 1),
        "features": max(abs(row[features] - 1) for row in rows),
        "softmax": [correlation(row["with that of softmax"], images) for row in rows],
    }
    return Measured(tables=[Table("Both sides on real images", rows, "views")], numbers=numbers)


@item("mae-pure/theorem-3.2", products=views_of())
def lower_bound(made: Mapping[str, Built]) -> Measured:
    """The reconstruction loss and its lower bound by AMV."""
    result = made["views"].read()
    rows, setting = result["theorem_3_2"], result["setting"]
    plain = [row for row in rows if row["model"] == "MAE"]
    attacked = [row for row in plain if row["images"] != "random signs" and row["eps"] == setting["eps"]]
    numbers: dict[str, Any] = {
        "holds": [share_of(row["holds with constant 0 %"], setting["images"]) for row in plain],
        "constant": min(row["largest constant, 95% of images"] for row in plain),
        "with estimated constants": [
            share_of(row[_ESTIMATED], setting["images"]) for row in plain if _ESTIMATED in row
        ],
        "correlation": [correlation(row["squared AMV with rise of loss"], setting["images"]) for row in attacked],
    }
    return Measured(tables=[Table("Both sides on real images", rows, "views")], numbers=numbers)


@item("mae-pure/theorem-j.1", "descent")
def convergence(made: Mapping[str, Built]) -> Measured:
    """Both sides of the bound on gradient descent."""
    result = made["descent"].read()
    rows = result["rows"]
    numbers = {
        "holds": [share_of(row["holds, % of images"], result["setting"]["images"]) for row in rows],
        "bounds": [
            max(row["right side, median"] for row in rows if row["steps"] == steps)
            for steps in sorted({row["steps"] for row in rows}, reverse=True)
        ],
    }
    title = "Both sides of the bound, a mean over masks of each image"
    return Measured(tables=[Table(title, rows, "descent")], numbers=numbers)


@rule
def shrinks() -> Check:
    """Held if the bound falls with every number of steps and at last by half; failed if it ends above its beginning."""

    def by(bounds: Sequence[float]) -> tuple[Verdict, str]:
        text = ", ".join(f"{bound:.3g}" for bound in bounds)
        falls = bounds == sorted(bounds) and bounds[0] < 0.5 * bounds[-1]
        verdict = HELD if falls else FAILED if bounds[0] >= bounds[-1] else OPEN
        return verdict, f"{text} (point estimates, no interval; rule: always falling, at last by half)"

    return decided("right side, median, worst step size, most steps first", "bounds", by=by)
