"""Figures of training runs: how losses and accuracies went, and how the trained classifiers compare."""

from collections.abc import Mapping, Sequence
from typing import Any

from .style import COLOURS, Plot, Row, line_style, new_figure, require, style


def plot_training(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Plot:
    """Draws the training loss and the validation accuracies of several runs.

    Args:
        curves: per run, its metric records with "step" and "loss", and where it was validated "validation_accuracy"
            and "validation_robust_accuracy" in [0, 1].
    """
    require(curves, "curves")
    rows: list[Row] = []
    with style():
        figure, (losses, accuracies) = new_figure(columns=2)
        for i, (name, records) in enumerate(curves.items()):
            look = line_style(i)
            steps = [record["step"] for record in records]
            losses.plot(steps, [record["loss"] for record in records], color=look["color"], label=name, linewidth=0.8)
            judged = [record for record in records if "validation_accuracy" in record]
            for key, line in (("validation_accuracy", "-"), ("validation_robust_accuracy", "--")):
                values = [100 * record[key] for record in judged]
                accuracies.plot([record["step"] for record in judged], values, **{**look, "linestyle": line})
            keys = ("step", "loss", "validation_accuracy", "validation_robust_accuracy")
            rows += [{"run": name, **{key: record.get(key) for key in keys}} for record in records]
        losses.set(xlabel="step", ylabel="training loss (each method's own)")
        accuracies.set(xlabel="step", ylabel="validation accuracy (%)", ylim=(0, 101))
        accuracies.set_title("solid: clean, dashed: under PGD")
        losses.legend()
        return Plot(figure, rows)


def plot_comparison(results: Mapping[str, Mapping[str, Mapping[str, float]]], title: str = "") -> Plot:
    """Draws clean and robust accuracy of several classifiers as bars with their intervals.

    Args:
        results: per classifier "clean" and "autoattack", each with "estimate", "low" and "high" in [0, 1].
        title: what was run: data, images, radius.
    """
    require(results, "results")
    rows: list[Row] = []
    with style():
        names = max(map(len, results)) * 0.08  # inches of the longest name
        figure, (axes,) = new_figure(width=1.2 + max(0.9, names) * len(results), height=2.6)
        for offset, (key, label) in enumerate((("clean", "clean"), ("autoattack", "AutoAttack"))):
            values = [result[key] for result in results.values()]
            estimates = [100 * value["estimate"] for value in values]
            below = [100 * (value["estimate"] - value["low"]) for value in values]
            above = [100 * (value["high"] - value["estimate"]) for value in values]
            places = [number + (offset - 0.5) * 0.4 for number in range(len(values))]
            axes.bar(places, estimates, 0.38, yerr=[below, above], capsize=2, color=COLOURS[offset], label=label)
            for place, estimate, up in zip(places, estimates, above, strict=True):
                axes.annotate(f"{estimate:.1f}", (place, estimate + up + 1), ha="center", fontsize=6)
            rows += [
                {"classifier": name, "kind": label, **{part: result[key][part] for part in ("estimate", "low", "high")}}
                for name, result in results.items()
            ]
        axes.set_xticks(range(len(results)), list(results))
        axes.set(ylabel="accuracy (%)", ylim=(0, 125), yticks=range(0, 101, 20), title=title)
        axes.legend(loc="upper left", ncols=2)
        return Plot(figure, rows)
