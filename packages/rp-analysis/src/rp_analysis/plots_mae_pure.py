"""The figures of the MAE-Pure paper that show attention-matrix variation (AMV) and sensitivity, one function each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .plot_style import COLOURS, Plot, Row, line_style, new_figure, require, style


class LossTrend(NamedTuple):
    """Reconstruction loss and AMV along an axis: attack budgets in [0, 1] pixel units, or iterations."""

    x: Sequence[float]
    loss: Sequence[float]
    amv: Sequence[float]


class Sensitivity(NamedTuple):
    """Accuracies in [0, 1] over the values of one hyper-parameter."""

    values: Sequence[float]
    clean_accuracy: Sequence[float]
    robust_accuracy: Sequence[float]


def plot_amv_under_attack(trends: Mapping[str, LossTrend]) -> Plot:
    """Draws MAE loss and AMV over the attack budget, one panel per data set (Fig. 4 a-c)."""
    return _loss_and_amv(trends, "budget ε (1/255)", scale=255)


def plot_amv_under_purification(trends: Mapping[str, LossTrend]) -> Plot:
    """Draws MAE loss and AMV over the purification iterations, one panel per data set (Fig. 4 d-f)."""
    return _loss_and_amv(trends, "purification iteration", scale=1)


def plot_sensitivity(parameters: Mapping[str, Sensitivity]) -> Plot:
    """Draws clean and robust accuracy over each hyper-parameter, one panel each (Fig. 5)."""
    require(parameters, "parameters")
    with style():
        figure, panels = new_figure(len(parameters), width=2.3, height=2.1)
        rows: list[Row] = []
        for axes, (name, s) in zip(panels, parameters.items(), strict=True):
            _check_lengths(name, s)
            axes.plot(s.values, [100 * a for a in s.clean_accuracy], label="clean", **line_style(0))
            axes.plot(s.values, [100 * a for a in s.robust_accuracy], label="robust", **line_style(1))
            axes.set(xlabel=name, ylabel="accuracy (%)", ylim=(0, 100))
            for value, clean, robust in zip(*s, strict=True):
                rows.append({"parameter": name, "value": value, "clean": clean, "robust": robust})
        panels[0].legend()
        return Plot(figure, rows)


def plot_amv_over_iterations(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Plot:
    """Draws AMV over the purification iterations of several purifiers (Fig. 6).

    Args:
        panels: title of each panel to its curves by purifier; entry i of a curve is after i iterations.
    """
    require(panels, "panels")
    with style():
        figure, all_axes = new_figure(len(panels), width=2.6)
        rows: list[Row] = []
        for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
            require(curves, f"panels[{title!r}]")
            for i, (name, amv) in enumerate(curves.items()):
                axes.plot(range(len(amv)), amv, label=name, **line_style(i))
                rows += [{"panel": title, "purifier": name, "iteration": t, "amv": a} for t, a in enumerate(amv)]
            axes.set(xlabel="purification iteration", ylabel="AMV", title=title)
            axes.locator_params(axis="x", integer=True)
            axes.legend()
        return Plot(figure, rows)


def plot_maskdit_amv_under_attack(trends: Mapping[str, LossTrend]) -> Plot:
    """Draws MaskDiT's denoising loss and AMV over the size of the perturbation (Fig. 7)."""
    return _loss_and_amv(trends, "perturbation δ (1/255)", scale=255)


def _loss_and_amv(trends: Mapping[str, LossTrend], xlabel: str, scale: float) -> Plot:
    """Loss on the left axis, AMV on the right one, each in its colour."""
    require(trends, "trends")
    with style():
        figure, panels = new_figure(len(trends), width=2.8, height=2.1)
        rows: list[Row] = []
        for axes, (name, trend) in zip(panels, trends.items(), strict=True):
            _check_lengths(name, trend)
            other = axes.twinx()
            other.spines["right"].set_visible(True)
            other.grid(False)
            x = [scale * value for value in trend.x]
            for i, (side, values, label) in enumerate(
                ((axes, trend.loss, "reconstruction loss"), (other, trend.amv, "AMV"))
            ):
                side.plot(x, values, **line_style(i))
                side.set_ylabel(label, color=COLOURS[i])
                side.tick_params(axis="y", colors=COLOURS[i])
            axes.set(xlabel=xlabel, title=name)
            axes.locator_params(axis="x", integer=True)
            rows += [
                dict(zip(("panel", *LossTrend._fields), (name, *point), strict=True))
                for point in zip(*trend, strict=True)
            ]
        return Plot(figure, rows)


def _check_lengths(name: str, columns: Sequence[Sequence[float]]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"the sequences of {name!r} must have one length, got {[len(c) for c in columns]}")
