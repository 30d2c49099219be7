"""Figures of training runs: how losses and accuracies went, and how the trained classifiers compare."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's


def plot_training(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> list[Path]:
    """Draw the training loss and the validation accuracies of several runs.

    Args:
        curves: per run, its metric records with "step" and "loss", and where validated "validation_accuracy" and
            "validation_robust_accuracy".
        path: without ending; `.pdf`, `.png` and the numbers as `.json` are written beside each other.

    Returns:
        The files written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for (name, records), colour in zip(curves.items(), COLOURS, strict=False):
        losses.plot([r["step"] for r in records], [r["loss"] for r in records], color=colour, label=name, linewidth=1)
        judged = [r for r in records if "validation_accuracy" in r]
        steps = [r["step"] for r in judged]
        accuracies.plot(steps, [100 * r["validation_accuracy"] for r in judged], color=colour, marker="o", label=name)
        robust = [100 * r["validation_robust_accuracy"] for r in judged]
        accuracies.plot(steps, robust, color=colour, marker="s", linestyle="--")
    losses.set(xlabel="step", ylabel="training loss", title="loss of each method's own objective")
    accuracies.set(xlabel="step", ylabel="accuracy (%)", ylim=(0, 101), title="validation: clean (solid), PGD (dashed)")
    losses.legend(frameon=False)
    return _save(figure, path, {name: [dict(record) for record in records] for name, records in curves.items()})


def plot_comparison(rows: Mapping[str, Mapping[str, Any]], setting: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw clean and robust accuracy of several classifiers as bars with their intervals.

    Args:
        rows: per classifier, "clean" and "autoattack", each with "estimate", "low" and "high" in [0, 1].
        setting: what was run: "data", "images", "norm" and "eps" go into the title.
        path: without ending, as in `plot_training`.

    Returns:
        The files written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 1.4 * len(rows), 3.4), layout="constrained")
    axes = figure.subplots()
    for offset, (key, label) in enumerate((("clean", "clean"), ("autoattack", "AutoAttack"))):
        values = [100 * row[key]["estimate"] for row in rows.values()]
        below = [100 * (row[key]["estimate"] - row[key]["low"]) for row in rows.values()]
        above = [100 * (row[key]["high"] - row[key]["estimate"]) for row in rows.values()]
        places = [number + (offset - 0.5) * 0.38 for number in range(len(rows))]
        bars = axes.bar(places, values, 0.36, yerr=[below, above], capsize=3, color=COLOURS[offset], label=label)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set(
        ylabel="accuracy (%)",
        ylim=(0, 112),
        title=f"{setting['data']}, {setting['images']} test images, {setting['norm']} eps {setting['eps']:.3g}",
    )
    axes.legend(frameon=False, loc="upper left", ncols=2)
    return _save(figure, path, {"setting": dict(setting), "rows": {name: dict(row) for name, row in rows.items()}})


def _save(figure: Any, path: Path, numbers: Any) -> list[Path]:
    """Write a figure as vector and raster image, and its numbers beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(ending) for ending in (".pdf", ".png", ".json")]
    for file in files[:2]:
        figure.savefig(file, dpi=160)
    files[2].write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return files
