"""The MAE-Pure paper's theorems on real images: what `analyze_purifier.py` reports about 3.1 and 3.2."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from rp_analysis import Plot, rank_correlation
from rp_analysis.plots_mae_pure import plot_inequality, plot_kernel_approximation
from rp_purify import Convention, MAEView, variation
from rp_purify.theory import KernelVariation, decoder_kernel_variation, reconstruction_inequality
from torch import Tensor

_CONSTANTS = 60  # points of a curve


class TheoremReport(NamedTuple):
    """A theorem's table and figure, with the figure's title."""

    rows: list[dict[str, Any]]
    plot: Plot
    title: str


def inequality(
    views: Mapping[str, MAEView],
    clean: Tensor,
    index: Tensor,
    images: Mapping[str, Callable[[float], Tensor]],
    radii: Sequence[float],
) -> TheoremReport:
    """For how many images the inequality of Theorem 3.2 holds, over attacks, radii and constants.

    Args:
        views: autoencoders with their masks.
        clean: images (b, c, h, w) in [0, 1].
        index: int64 (b,), their indices.
        images: by name, what gives the perturbed images for a radius; the last one is drawn.
        radii: Linf, in [0, 1] pixel units.
    """
    rows, curves = [], dict[str, dict[float, Tensor]]()
    for model, view in views.items():
        for kind, perturb in images.items():
            for eps in radii:
                result = variation(view, clean, perturb(eps), index=index, convention=Convention(squared=True))
                squares = result.layers
                report = reconstruction_inequality(result.clean_loss, result.loss, squares, constant=0.0)
                largest = report.largest_constant.double()
                rows.append(
                    {
                        "model": model,
                        "images": kind,
                        "eps": eps,
                        "holds with constant 0 %": 100 * report.rate,
                        "largest constant, 95% of images": float(largest.quantile(0.05, interpolation="lower")),
                        "largest constant, half of images": float(largest.quantile(0.5, interpolation="lower")),
                        "mean squared AMV": float(squares.mean()),
                        "squared AMV with rise of loss": rank_correlation(
                            squares.mean(dim=1).cpu(), (result.loss - result.clean_loss).cpu()
                        ),
                    }
                )
                curves.setdefault(f"{model}, {kind}", {})[eps] = largest
    drawn = {title: curves[title] for title in (f"{model}, {kind}" for model in views)}
    return TheoremReport(rows, _inequality_plot(drawn), "Share of images for which the inequality holds, c_rec = 0")


def approximation(
    view: MAEView, clean: Tensor, index: Tensor, attacked: Mapping[float, Tensor], *, features: int, seed: int
) -> TheoremReport:
    """How near Theorem 3.1's right side comes to the variation of unnormalised and of softmax attention.

    Args:
        view: an autoencoder with its masks.
        clean: images (b, c, h, w) in [0, 1].
        index: int64 (b,), their indices.
        attacked: by radius, the attacked images.
        features: number of random features.
        seed: of the features.
    """
    rows, points = [], dict[str, dict[str, tuple[list[float], list[float]]]]()
    for eps, images in attacked.items():
        generator = torch.Generator(clean.device).manual_seed(seed)
        layers = decoder_kernel_variation(
            view.model, clean, images, view.mask(index), features=features, generator=generator
        )
        both = KernelVariation(
            *(torch.cat([norms.flatten().cpu() for norms in part]) for part in zip(*layers, strict=True))
        )
        rows.append(
            {
                "eps": eps,
                "matrices": len(both.kernel),
                "first order / true": _median_ratio(both.first_order, both.kernel),
                f"{features} features / first order": _median_ratio(both.approximation, both.first_order),
                f"{features} features / true": _median_ratio(both.approximation, both.kernel),
                "rank correlation with the true one": rank_correlation(both.approximation, both.kernel),
                "with that of softmax": rank_correlation(both.approximation, both.softmax),
            }
        )
        pairs = {
            "linear in the shift": (both.kernel, both.first_order),
            f"{features} random features": (both.kernel, both.approximation),
            "against softmax": (both.softmax, both.approximation),
        }
        for panel, (true, approximate) in pairs.items():
            points.setdefault(panel, {})[f"ε = {255 * eps:.3g}/255"] = (true.tolist(), approximate.tolist())
    plot = plot_kernel_approximation(points, ylabel="approximation")
    return TheoremReport(rows, plot, "One point for each image, decoder layer and head; the line is equality")


def _inequality_plot(largest: Mapping[str, Mapping[float, Tensor]]) -> Plot:
    """Shares over the constants that matter for any of the curves."""
    values = torch.cat([constants for radii in largest.values() for constants in radii.values()])
    finite = values[values.isfinite() & (values > 0)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (1.0, 1.0)
    constants = torch.logspace(math.log10(low / 3), math.log10(3 * high), _CONSTANTS, dtype=torch.float64)
    return plot_inequality(
        {
            title: {
                f"ε = {255 * eps:.3g}": (
                    constants.tolist(),
                    [float((limits >= constant).double().mean()) for constant in constants],
                )
                for eps, limits in radii.items()
            }
            for title, radii in largest.items()
        }
    )


def _median_ratio(values: Tensor, reference: Tensor) -> float:
    return float((values / reference).median())
