"""The figures of the MAE-Pure paper that show attention-matrix variation (AMV) and sensitivity, one function each."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .style import GREY, Plot, Row, line_style, new_figure, point_style, require, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INTERVAL = 1.96  # standard errors


class LossTrend(NamedTuple):
    """Reconstruction loss and AMV along an axis: attack budgets in [0, 1] pixel units, or iterations."""

    x: Sequence[float]  # places on the axis
    loss: Sequence[float]  # at each place
    amv: Sequence[float]  # at each place
    loss_error: Sequence[float] = ()  # standard error of each loss; nothing for none
    amv_error: Sequence[float] = ()  # of each AMV


class Sensitivity(NamedTuple):
    """Accuracies in [0, 1] over the values of one hyper-parameter."""

    values: Sequence[float]
    clean_accuracy: Sequence[float]
    robust_accuracy: Sequence[float]


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


def plot_amv_over_iterations(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, iterations: Sequence[int] | None = None
) -> Plot:
    """Draws AMV over the purification iterations of several purifiers (Fig. 6).

    Args:
        panels: title of each panel to its curves by purifier.
        iterations: after how many iterations each entry of a curve was measured; None for 0, 1, 2, ...
    """
    curves = {
        title: {name: (range(len(amv)) if iterations is None else iterations, amv) for name, amv in own.items()}
        for title, own in panels.items()
    }
    with style():
        plot, all_axes = _panels(curves, ("panel", "purifier", "iteration", "amv"), _band, width=2.6)
        for axes in all_axes:
            axes.set(xlabel="purification iteration", ylabel="AMV")
            axes.locator_params(axis="x", integer=True)
            axes.legend()
        return plot


def plot_loss_and_amv(panels: Mapping[str, Mapping[str, LossTrend]], *, xlabel: str, scale: float = 1) -> Plot:
    """Draws reconstruction loss (above) and AMV (below) of several kinds of images, one column per model (Fig. 4, 7).

    Args:
        panels: model to its trends by kind of images, e.g. adversarial and noisy ones.
        xlabel: of the axis that all share.
        scale: what x is multiplied with, 255 for budgets.
    """
    require(panels, "panels")
    with style():
        figure, axes = new_figure(len(panels), 2, width=2.9, height=1.9, sharex="col")
        rows: list[Row] = []
        for column, (model, trends) in enumerate(panels.items()):
            require(trends, f"panels[{model!r}]")
            above, below = axes[column], axes[column + len(panels)]
            for i, (kind, trend) in enumerate(trends.items()):
                _check_lengths(f"{model}, {kind}", [values for values in trend if len(values)])
                x = [scale * value for value in trend.x]
                _band(above, x, trend.loss, kind, i, trend.loss_error)
                _band(below, x, trend.amv, kind, i, trend.amv_error)
                for place in zip(trend.x, trend.loss, trend.amv, strict=True):
                    rows.append({"model": model, "kind": kind, **dict(zip(("x", "loss", "amv"), place, strict=True))})
            above.set(title=model)
            below.set(xlabel=xlabel)
        axes[0].set_ylabel("reconstruction loss")
        axes[len(panels)].set_ylabel("AMV")
        axes[0].legend()
        return Plot(figure, rows)


def plot_layer_amv(
    panels: Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]]]], *, xlabel: str, scale: float = 1
) -> Plot:
    """Draws the AMV of each decoder layer along an axis, one panel per model.

    Args:
        panels: model to the places on the axis and, for each place, the AMV of every layer from the first to the last.
        scale: what the places are multiplied with, 255 for budgets.
    """
    require(panels, "panels")
    with style():
        figure, all_axes = new_figure(len(panels), width=2.8, height=2.1)
        rows: list[Row] = []
        for axes, (model, (x, layers)) in zip(all_axes, panels.items(), strict=True):
            _check_lengths(model, [x, [0.0] * len(layers)])
            for i, curve in enumerate(zip(*layers, strict=True)):
                last = ", the last" if i + 1 == len(layers[0]) else ""
                axes.plot([scale * place for place in x], curve, label=f"layer {i + 1}{last}", **line_style(i))
                points = zip(x, curve, strict=True)
                rows += [{"model": model, "layer": i + 1, "x": place, "amv": amv} for place, amv in points]
            axes.set(xlabel=xlabel, ylabel="AMV", title=model)
            axes.legend()
        return Plot(figure, rows)


def plot_inequality(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Plot:
    """Draws for how many images Theorem 3.2's inequality holds, over the constant H C_A that it leaves open.

    Args:
        panels: title to curves by name; a curve is its constants, positive and increasing, and the shares in [0, 1].
    """

    def draw(axes: "Axes", x: Sequence[float], y: Sequence[float], name: str, i: int) -> None:
        axes.plot(x, [100 * share for share in y], label=name, **line_style(i) | {"marker": ""})

    with style():
        keys = ("panel", "curve", "constant", "share")
        plot, all_axes = _panels(panels, keys, draw, width=2.8, height=2.1, sharey=True)
        for axes in all_axes:
            axes.set(xscale="log", xlabel="constant $H C_A$", ylim=(-3, 103))
        all_axes[0].set_ylabel("images for which it holds (%)")
        all_axes[0].legend()
        return plot


def plot_kernel_approximation(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], *, ylabel: str
) -> Plot:
    """Draws an approximation against the variation that it approximates, both on logarithmic scales (Theorem 3.1).

    Args:
        panels: title to groups of points by name, e.g. by budget; a group is true and approximate values.
    """

    def draw(axes: "Axes", x: Sequence[float], y: Sequence[float], name: str, i: int) -> None:
        axes.scatter(x, y, label=name, s=5, linewidths=0, alpha=0.5, **point_style(i))

    with style():
        keys = ("panel", "group", "true", "approximation")
        plot, all_axes = _panels(panels, keys, draw, width=2.4, height=2.2, sharey=True)
        for axes in all_axes:
            axes.axline((1, 1), (2, 2), color=GREY, linewidth=0.8)
            axes.set(xscale="log", yscale="log", xlabel="true variation")
        all_axes[0].set_ylabel(ylabel)
        handles = all_axes[0].get_legend_handles_labels()
        plot.figure.legend(*handles, loc="outside lower center", ncols=8, markerscale=2)
        return plot


def _panels(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    keys: tuple[str, str, str, str],
    draw: Callable[["Axes", Sequence[float], Sequence[float], str, int], None],
    **size: Any,
) -> tuple[Plot, list["Axes"]]:
    """A panel for each title, in it each of its named curves; `keys` name panel, curve, x and y in the rows."""
    require(panels, "panels")
    figure, all_axes = new_figure(len(panels), **size)
    rows: list[Row] = []
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
        require(curves, f"panels[{title!r}]")
        for i, (name, (x, y)) in enumerate(curves.items()):
            _check_lengths(name, (x, y))
            draw(axes, x, y, name, i)
            rows += [dict(zip(keys, (title, name, *point), strict=True)) for point in zip(x, y, strict=True)]
        axes.set_title(title)
    return Plot(figure, rows), all_axes


def _check_lengths(name: str, columns: Sequence[Sequence[float]]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"the sequences of {name!r} must have one length, got {[len(c) for c in columns]}")


def _band(
    axes: "Axes", x: Sequence[float], values: Sequence[float], label: str, i: int, errors: Sequence[float] = ()
) -> None:
    """A curve, with its 95% interval where errors are known."""
    look = line_style(i)
    axes.plot(x, values, label=label, **look)
    if errors:
        low, high = ([v + sign * _INTERVAL * e for v, e in zip(values, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
