"""How many passes the gradient of a random defence needs: measured, and drawn."""

from collections.abc import Mapping, Sequence

from rp_analysis.plots.style import Plot, Row, line_style, new_figure, style
from rp_attacks.convergence import COUNTS, eot_convergence
from rp_attacks.defence import Classifier
from rp_attacks.noise import derive_seed
from torch import Tensor

IMAGES = 8  # at most, on which it is measured


def measure(
    defence: Classifier, x: Tensor, y: Tensor, *, index: Tensor, seed: int, most: int, batch_size: int
) -> list[dict[str, float]]:
    """The points of `rp_attacks.convergence.eot_convergence` up to so many passes, on the first images."""
    x, y, index = x[:IMAGES], y[:IMAGES], index[:IMAGES]
    counts = sorted({count for count in COUNTS if count < most} | {most})
    chunk = max(batch_size // len(x), 1)
    points = eot_convergence(
        defence, x, y, seed=derive_seed(seed, "convergence"), index=index, counts=counts, chunk=chunk
    )  # fmt: skip
    return [point._asdict() for point in points]


def plot_eot_convergence(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> Plot:
    """Draws, for each defence, how well the mean gradient of M passes agrees with that of the most passes.

    Left the cosine, right the share of entries of the same sign; where a curve is flat more passes are wasted, and
    where it stays low the draws disagree.
    """
    panels = {"cosine": "cosine with another mean gradient", "same_sign": "share of equal signs"}
    with style():
        figure, axes = new_figure(columns=2, width=3.0, height=2.4)
        for panel, (key, label) in zip(axes, panels.items(), strict=True):
            for number, (name, points) in enumerate(rows.items()):
                counts, values = [point["passes"] for point in points], [point[key] for point in points]
                panel.plot(counts, values, label=name, **line_style(number))
            panel.set(xscale="log", xlabel="passes a gradient", ylabel=label, ylim=(None, 1.02))
        axes[0].legend(loc="lower right", fontsize=5)
        drawn: list[Row] = [{"defence": name, **point} for name, points in rows.items() for point in points]
        return Plot(figure, drawn)
