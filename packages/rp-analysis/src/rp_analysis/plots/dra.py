"""The figures of the diffusion-representation-alignment paper, one function each, from numbers to figure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from rp_analysis.dimension import ClassificationDimension
from rp_analysis.sae_evaluation import SaeRun
from rp_analysis.significance import rank_correlation
from rp_analysis.similarity import SimilarityPoint

from .maps import draw_maps
from .style import COLOURS, GREY, Plot, Row, label_points, line_style, new_figure, point_style, require, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RobustnessCurve(NamedTuple):
    """Accuracies in [0, 1] over the radius, with their intervals."""

    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    images: int

    @classmethod
    def of(cls, points: Sequence[Any], images: int) -> "RobustnessCurve":
        """From points with `eps` and `accuracy`, which has estimate, low and high: `rp_attacks.accuracy_curve`'s."""
        rows = [(p.eps, p.accuracy.estimate, p.accuracy.low, p.accuracy.high) for p in points]
        eps, accuracy, low, high = zip(*rows, strict=True)
        return cls(eps, accuracy, low, high, images)


class GeometryPoint(NamedTuple):
    """One model's alignment and uniformity scores (negated losses) and, for Fig. 5, its accuracies in [0, 1]."""

    name: str
    alignment: float
    uniformity: float
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None


class StrengthPoint(NamedTuple):
    """Accuracies in [0, 1] at one alignment strength."""

    strength: float
    clean_accuracy: float
    robust_accuracy: float


def plot_cknna_scatter(points: Sequence[SimilarityPoint], *, label: bool = True) -> Plot:
    """Draws CKNNA with a diffusion model against robust accuracy, one point per model (Fig. 1)."""
    require(points, "points")
    with style():
        figure, (axes,) = new_figure()
        rows = _scatter(axes, points, "diffusion model", 0)
        _similarity_axes(axes)
        if label:
            axes.set_title(str(axes.collections[0].get_label()))
            label_points(axes, [(p.name, 100 * p.robust_accuracy, p.score) for p in points])
        return Plot(figure, rows)


def plot_cknna_comparison(diffusion: Sequence[SimilarityPoint], standard: Sequence[SimilarityPoint]) -> Plot:
    """Draws CKNNA with a diffusion model and with a standard classifier against robust accuracy (Fig. 9)."""
    require(diffusion, "diffusion")
    require(standard, "standard")
    with style():
        figure, (axes,) = new_figure()
        rows = _scatter(axes, standard, "standard model", None)
        rows += _scatter(axes, diffusion, "diffusion model", 1)
        axes.legend()
        _similarity_axes(axes)
        return Plot(figure, rows)


def plot_perturbation_saliency(spectra: Mapping[str, Tensor]) -> Plot:
    """Draws the spectra (h, w) of perturbations, low frequencies centred, on one scale (Fig. 3a)."""
    require(spectra, "spectra")
    with style():
        return draw_maps(spectra, label="mean |F|", low_at="centre")


def plot_robustness_curves(curves: Mapping[str, RobustnessCurve]) -> Plot:
    """Draws robust accuracy over the budget with 95 % intervals (Fig. 3b)."""
    require(curves, "curves")
    with style():
        figure, (axes,) = new_figure()
        rows: list[Row] = []
        for i, (name, curve) in enumerate(curves.items()):
            budget = [255 * e for e in curve.eps]
            axes.plot(budget, [100 * a for a in curve.accuracy], label=name, **line_style(i))
            low, high = ([100 * a for a in side] for side in (curve.low, curve.high))
            axes.fill_between(budget, low, high, color=COLOURS[i % len(COLOURS)], alpha=0.15, linewidth=0)
            for eps, accuracy, lowest, highest in zip(*curve[:4], strict=True):
                rows.append({"model": name, "eps": eps, "accuracy": accuracy, "low": lowest, "high": highest})
        axes.set(xlabel="budget ε (1/255)", ylabel="robust accuracy (%)", ylim=(0, 100))
        axes.legend()
        return Plot(figure, rows)


def plot_alignment_uniformity(points: Sequence[GeometryPoint]) -> Plot:
    """Draws uniformity against alignment, both as scores: upper right is better (Fig. 4)."""
    return _geometry([point._replace(clean_accuracy=None, robust_accuracy=None) for point in points])


def plot_alignment_uniformity_accuracy(points: Sequence[GeometryPoint]) -> Plot:
    """Draws uniformity against alignment with (clean, robust) accuracy beside each model (Fig. 5)."""
    missing = [p.name for p in points if p.clean_accuracy is None or p.robust_accuracy is None]
    if missing:
        raise ValueError(f"accuracies are missing for {', '.join(missing)}; plot_alignment_uniformity needs none")
    return _geometry(points)


def plot_sae_loss(runs: Mapping[str, Sequence[SaeRun]]) -> Plot:
    """Draws the normalised reconstruction loss over k per model, mean and range over seeds (Fig. 6)."""
    require(runs, "runs")
    with style():
        figure, (axes,) = new_figure()
        ks = sorted({run.k for own in runs.values() for run in own})
        rows: list[Row] = []
        for i, (name, own) in enumerate(runs.items()):
            require(own, f"runs[{name!r}]")
            per_k = {k: [r.reconstruction.normalized_loss for r in own if r.k == k] for k in ks}
            drawn = [k for k in ks if per_k[k]]
            mean = [statistics.fmean(per_k[k]) for k in drawn]
            error = [[m - min(per_k[k]) for m, k in zip(mean, drawn, strict=True)]]
            error.append([max(per_k[k]) - m for m, k in zip(mean, drawn, strict=True)])
            place = [ks.index(k) + 0.12 * (i - (len(runs) - 1) / 2) for k in drawn]
            axes.errorbar(place, mean, yerr=error, capsize=2, label=name, **line_style(i))
            rows += [{"model": name, "k": r.k, "seed": r.seed, **r.reconstruction._asdict()} for r in own]
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        axes.set(xlabel="active latents k", ylabel="normalised reconstruction loss")
        axes.set_ylim(bottom=0)
        axes.legend()
        return Plot(figure, rows)


def plot_component_accuracy(result: ClassificationDimension, *, largest: int | None = None) -> Plot:
    """Draws clean and robust accuracy over the number of principal components, dimensions marked (Fig. 7).

    Args:
        largest: draw up to this K; None draws all.
    """
    with style():
        figure, (axes,) = new_figure()
        last = min(largest or len(result.clean) - 1, len(result.clean) - 1)
        ks = list(range(1, last + 1))
        curves = {"clean": result.clean, "adversarial": result.adversarial}
        for i, (name, curve) in enumerate((n, c) for n, c in curves.items() if c is not None):
            values = 100 * curve[1 : last + 1].cpu()
            axes.plot(ks, values.tolist(), label=name, **(line_style(i) | {"marker": ""}))
        marks = {"CLS-95": result.cls95, "CLS-99": result.cls99, "robust": result.robust}
        for i, (name, k) in enumerate(marks.items()):
            if k is not None and k <= last:
                axes.axvline(k, color=GREY, linewidth=0.8, linestyle=("--", ":", "-")[i], label=f"{name}: {k}")
        if result.robust_range is not None:
            axes.axvspan(*result.robust_range, color=COLOURS[1], alpha=0.1, linewidth=0)
        axes.set(xlabel=f"principal components K ({result.variant})", ylabel="accuracy (%)", ylim=(0, 100))
        axes.legend()
        rows: list[Row] = [{"k": k, "clean": float(result.clean[k])} for k in range(len(result.clean))]
        if result.adversarial is not None:
            rows = [row | {"adversarial": float(result.adversarial[k])} for k, row in enumerate(rows)]
        return Plot(figure, rows)


def plot_strength_sweep(points: Sequence[StrengthPoint], baseline: StrengthPoint | None = None) -> Plot:
    """Draws clean and robust accuracy over the alignment strength lambda, a baseline as a line (Fig. 8)."""
    require(points, "points")
    with style():
        figure, panels = new_figure(2, width=2.6)
        points = sorted(points)
        for i, (axes, kind) in enumerate(zip(panels, ("clean", "robust"), strict=True)):
            values = [100 * getattr(p, f"{kind}_accuracy") for p in points]
            axes.plot([p.strength for p in points], values, **line_style(i))
            if baseline is not None:
                level = 100 * getattr(baseline, f"{kind}_accuracy")
                axes.axhline(level, color=GREY, linestyle="--", linewidth=0.8, label="baseline")
                axes.legend()
            axes.set(xlabel="alignment strength λ", ylabel=f"{kind} accuracy (%)")
        drawn: list[Row] = [{"kind": "sweep", **p._asdict()} for p in points]
        return Plot(figure, drawn + ([{"kind": "baseline", **baseline._asdict()}] if baseline else []))


def plot_gradient_difference(differences: Mapping[str, Tensor]) -> Plot:
    """Draws differences of input-gradient spectra (h, w), low frequencies in the upper left (Fig. 10).

    Positive values, on one scale symmetric around zero, are frequencies to which sensitivity grew.
    """
    require(differences, "differences")
    with style():
        return draw_maps(differences, label="difference of mean |DCT|", low_at="upper left", diverging=True)


def _scatter(axes: "Axes", points: Sequence[SimilarityPoint], reference: str, series: int | None) -> list[Row]:
    """Points of one reference; series None is the grey background."""
    x, y = [100 * p.robust_accuracy for p in points], [p.score for p in points]
    look = {"color": GREY, "marker": "x"} if series is None else point_style(series)
    correlation = rank_correlation(x, y) if len(points) > 2 else math.nan
    rho = "" if math.isnan(correlation) else f" (ρ = {correlation:.2f})"
    axes.scatter(x, y, s=16, label=reference + rho, **look)
    return [{"reference": reference, **p._asdict()} for p in points]


def _similarity_axes(axes: "Axes") -> None:
    axes.set(xlabel="robust accuracy (%)", ylabel="CKNNA")
    axes.margins(x=0.12, y=0.12)


def _geometry(points: Sequence[GeometryPoint]) -> Plot:
    require(points, "points")
    with style():
        figure, (axes,) = new_figure()
        labels = []
        for i, p in enumerate(points):
            axes.scatter(p.alignment, p.uniformity, s=24, **point_style(i))
            accuracy = ""
            if p.clean_accuracy is not None and p.robust_accuracy is not None:
                accuracy = f"\n({100 * p.clean_accuracy:.1f}, {100 * p.robust_accuracy:.1f})"
            labels.append((p.name + accuracy, p.alignment, p.uniformity))
        axes.set(xlabel="alignment (−loss) →", ylabel="uniformity (−loss) →")
        axes.margins(x=0.25, y=0.25)
        label_points(axes, labels)
        return Plot(figure, [dict(p._asdict()) for p in points])
