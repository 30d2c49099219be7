"""The figures of a comparison of purifiers: accuracies of each row, and what they cost."""

from collections.abc import Mapping
from typing import Any

from rp_analysis.plots.style import COLOURS, Plot, new_figure, style

from rp_experiments.recipes.compare_purifiers import title
from rp_experiments.results import limits


def plot_rows(result: Mapping[str, Any]) -> Plot:
    """Draws clean accuracy, accuracy under transfer and under the worst case as bars with their intervals."""
    kinds = {"clean": "clean", "transfer": "transfer from the classifier", "worst": "worst case"}
    names, drawn = list(result["rows"]), list[dict[str, Any]]()
    with style():
        figure, (axes,) = new_figure(width=max(4.0, 1.2 + 0.62 * len(names)), height=3.2)
        for offset, (kind, label) in enumerate(kinds.items()):
            present = [name for name in names if kind in result["rows"][name]["cells"]]
            cells = [limits(result["rows"][name]["cells"][kind]) for name in present]
            drawn += [
                {"purifier": title(name), "kind": label, **cell} for name, cell in zip(present, cells, strict=True)
            ]
            heights = [100 * cell["estimate"] for cell in cells]
            below = [100 * (cell["estimate"] - cell["low"]) for cell in cells]
            above = [100 * (cell["high"] - cell["estimate"]) for cell in cells]
            places = [names.index(name) + (offset - 1) * 0.27 for name in present]
            axes.bar(places, heights, 0.25, yerr=[below, above], capsize=1.5, color=COLOURS[offset], label=label)
        axes.set_xticks(range(len(names)), [title(name) for name in names], rotation=30, ha="right")
        where = result["setting"]
        heading = f"{where['data']}, {where['images']} test images, Linf eps {where['eps']:.3g}"
        axes.set(ylabel="accuracy of one query (%)", ylim=(0, 119), yticks=range(0, 101, 20), title=heading)
        axes.legend(loc="upper right", ncols=3)
        return Plot(figure, drawn)


def plot_pareto(result: Mapping[str, Any]) -> Plot:
    """Draws worst-case (filled) and clean accuracy (open) of each row over what a pass costs; a line joins the best.

    The cost is the operations of a pass, or where some row has no count, its time. A row is among the best if none is
    both as cheap and as accurate in the worst case.
    """
    rows = result["rows"].values()
    counted = all(row.get("operations") for row in rows)
    drawn = [
        {
            "purifier": title(name),
            "cost": row["operations"] / 1e6 if counted else 1000 * row["latency"],
            "clean": 100 * limits(row["cells"]["clean"])["estimate"],
            "worst": 100 * limits(row["cells"]["worst"])["estimate"],
        }
        for name, row in result["rows"].items()
        if row.get("latency")
    ]
    best = sorted(
        (one for one in drawn if not any(_dominates(other, one) for other in drawn)),
        key=lambda one: one["cost"],
    )
    with style():
        figure, (axes,) = new_figure(width=6.0, height=4.0)
        axes.plot([one["cost"] for one in best], [one["worst"] for one in best], color=COLOURS[5], linewidth=0.8)
        for number, (key, face) in enumerate({"clean": "none", "worst": COLOURS[1]}.items()):
            places = [one["cost"] for one in drawn], [one[key] for one in drawn]
            label = {"clean": "clean", "worst": "worst case"}[key]
            axes.scatter(*places, s=14, facecolors=face, edgecolors=COLOURS[number], label=label)
        for one in drawn:
            axes.annotate(one["purifier"], (one["cost"], one["worst"]), (2, -6), textcoords="offset points", size=4)
        axes.set(
            xscale="log",
            xlabel=f"{'million operations' if counted else 'milliseconds'} for one image, one pass",
            ylabel="accuracy of one query (%)",
        )
        axes.legend(loc="lower right")
        return Plot(figure, drawn)


def _dominates(other: Mapping[str, Any], one: Mapping[str, Any]) -> bool:
    """Whether a row is at least as cheap and as robust as another one, and better in one of these."""
    better = other["cost"] < one["cost"] or other["worst"] > one["worst"]
    return better and other["cost"] <= one["cost"] and other["worst"] >= one["worst"]
