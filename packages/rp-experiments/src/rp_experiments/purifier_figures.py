"""Curves, maps and theorems of the MAE-Pure paper as `analyze_purifier.py` shows them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from rp_analysis import rank_correlation
from rp_analysis.plots import (
    LossTrend,
    Plot,
    TargetMaps,
    plot_image_grid,
    plot_inequality,
    plot_kernel_approximation,
    plot_target_attention,
)
from rp_models.networks.transformer import patchify, unpatchify
from rp_purify import MAEView, MaskDiTView, variation
from rp_purify.amv import Convention, Point, Variation
from rp_purify.hidden_patch import central_target, moved_attention, target_attention
from rp_purify.inequality_constants import InequalityConstants, inequality_constants
from rp_purify.theory import KernelVariation, decoder_kernel_variation, reconstruction_inequality
from torch import Tensor

Curves = dict[str, dict[str, list[Point]]]
"""Points by network and kind of images."""

Shown = tuple[list[dict[str, Any]], Plot]
"""A table and a figure."""

_CONSTANTS = 60  # points of a curve


def trends(curves: Curves) -> dict[str, dict[str, LossTrend]]:
    """Curves as the figures take them."""
    names = ("position", "loss", "amv", "loss_error", "amv_error")

    def trend(points: Sequence[Point]) -> LossTrend:
        return LossTrend(*([getattr(point, name) for point in points] for name in names))

    return {model: {kind: trend(points) for kind, points in kinds.items()} for model, kinds in curves.items()}


def plain(curves: Curves) -> dict[str, Any]:
    """Curves as JSON values."""
    return {
        model: {kind: [point._asdict() for point in points] for kind, points in kinds.items()}
        for model, kinds in curves.items()
    }


def correlations(model: str, axis: str, kind: str, points: Sequence[Point]) -> dict[str, Any]:
    """Spearman's rank correlations of one curve: AMV and loss with its axis and with each other."""
    position, amv, loss = ([getattr(point, name) for point in points] for name in ("position", "amv", "loss"))
    return {
        "model": model,
        "over": axis,
        "images": kind,
        "points": len(points),
        "AMV": rank_correlation(position, amv),
        "loss": rank_correlation(position, loss),
        "AMV with loss": rank_correlation(amv, loss),
    }


def image_by_image(
    view: MAEView | MaskDiTView, clean: Tensor, attacked: Tensor, purified: Tensor, index: Tensor
) -> dict[str, float]:
    """Rank correlation over images, and shares of the images that purification improves."""
    before, after = (variation(view, clean, x, index=index) for x in (attacked, purified))
    rise = before.loss - before.clean_loss
    return {
        "AMV with rise of loss": rank_correlation(before.layers[:, -1].cpu(), rise.cpu()),
        "loss rises under attack %": 100 * float((rise > 0).double().mean()),
        "loss falls by purifying %": 100 * float((after.loss < before.loss).double().mean()),
        "AMV falls by purifying %": 100 * float((after.layers[:, -1] < before.layers[:, -1]).double().mean()),
    }


class AttentionReport(NamedTuple):
    """How far attention moved, by version, mean over images and in [0, 1]; how often the last version came nearer."""

    moved: dict[str, float]
    nearer: float
    plot: Plot


def attention_of_targets(
    view: MAEView, versions: Mapping[str, Tensor], index: Tensor, *, drawn: tuple[str, ...], count: int, batch_size: int
) -> AttentionReport:
    """The attention of each image's most central hidden patch in the last decoder layer, for versions of the images.

    The first version is the clean one, the second the attacked one, the last the purified one; the `count` images are
    drawn whose attention the attack moves most.
    """
    mask = view.mask(index)
    target = central_target(mask)
    maps = {name: _maps(view, x, index, target, batch_size) for name, x in versions.items()}
    clean, attacked, *_, purified = maps
    moved = {name: moved_attention(maps[clean], weights) for name, weights in maps.items() if name != clean}
    chosen = moved[attacked].argsort(descending=True)[:count].tolist()
    examples = [
        TargetMaps(versions[clean][i].cpu(), int(target[i]), {name: maps[name][i].cpu() for name in drawn})
        for i in chosen
    ]
    return AttentionReport(
        {name: float(share.mean()) for name, share in moved.items()},
        float((moved[purified] < moved[attacked]).double().mean()),
        plot_target_attention(examples),
    )


def _maps(view: MAEView, x: Tensor, index: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """Weights (b, n) of the targets in one version of the images."""
    parts: list[Tensor] = []
    for rows in torch.arange(len(x), device=x.device).split(batch_size):
        attention = view(x[rows], index[rows]).attention[-1]
        parts.append(target_attention(attention, view.mask(index[rows]), target[rows]))
    return torch.cat(parts)


@torch.no_grad()
def reconstruction_sheet(view: MAEView, versions: Mapping[str, Tensor], index: Tensor) -> Plot:
    """The masked images, and each version with what the autoencoder reconstructs from its visible patches."""
    size, clean = view.model.patch_size, next(iter(versions.values()))
    hidden = view.mask(index).mask[:, :, None].expand_as(patchify(clean, size))
    sheet = {"masked": clean.masked_fill(unpatchify(hidden, size) > 0, torch.nan)}
    for name, x in versions.items():
        sheet |= {name: x, f"from {name}": view.reconstruction(x, index)}
    return plot_image_grid(sheet)


def inequality(
    views: Mapping[str, MAEView],
    clean: Tensor,
    index: Tensor,
    images: Mapping[str, Callable[[float], Tensor]],
    radii: Sequence[float],
) -> Shown:
    """For how many images Theorem 3.2's inequality holds, over attacks, Linf radii and constants; the last is drawn."""
    rows, curves = [], dict[str, dict[str, Tensor]]()
    for model, view in views.items():
        for kind, perturb in images.items():
            for eps in radii:
                seen = variation(view, clean, perturb(eps), index=index, convention=Convention(squared=True))
                report = reconstruction_inequality(seen.clean_loss, seen.loss, seen.layers, constant=0.0)
                largest = report.largest_constant.double()
                rise = (seen.loss - seen.clean_loss).cpu()
                found = inequality_constants(view.model, clean, perturb(eps), view.mask(index))
                rows.append(
                    {
                        "model": model,
                        "images": kind,
                        "eps": eps,
                        "holds with constant 0 %": 100 * report.rate,
                        "largest constant, 95% of images": float(largest.quantile(0.05, interpolation="lower")),
                        "largest constant, half of images": float(largest.quantile(0.5, interpolation="lower")),
                        "mean squared AMV": float(seen.layers.mean()),
                        "squared AMV with rise of loss": rank_correlation(seen.layers.mean(dim=1).cpu(), rise),
                        **_with_constants(seen, found),
                    }
                )
                curves.setdefault(f"{model}, {kind}", {})[f"ε = {255 * eps:.3g}"] = largest
    last = list(images)[-1]
    return rows, _inequality_plot({title: curves[title] for title in (f"{model}, {last}" for model in views)})


def _with_constants(seen: Variation, found: InequalityConstants) -> dict[str, float]:
    """The estimated constants, and for how many images the inequality holds with them."""
    both, bias = found.h * found.c_a, float(found.c_rec.mean())
    constant = 0.0 if bool(both.isnan().all()) else float(both.nanmedian())  # where no attention changed any one holds
    rates = (
        reconstruction_inequality(seen.clean_loss, seen.loss, seen.layers, constant=constant, bias=b).rate
        for b in (bias, 0.0)
    )
    names = ("holds with the estimated constants %", "holds with them, c_rec = 0, %")
    shown = {"H, median": float(found.h.nanmedian()), "C_A, median": float(found.c_a.nanmedian()), "c_rec, mean": bias}
    return shown | {name: 100 * rate for name, rate in zip(names, rates, strict=True)}


def _inequality_plot(largest: Mapping[str, Mapping[str, Tensor]]) -> Plot:
    """Shares over the constants that matter for any of the curves."""
    values = torch.cat([constants for radii in largest.values() for constants in radii.values()])
    finite = values[values.isfinite() & (values > 0)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (1.0, 1.0)
    constants = torch.logspace(math.log10(low / 3), math.log10(3 * high), _CONSTANTS, dtype=torch.float64)

    def shares(limits: Tensor) -> tuple[list[float], list[float]]:
        return constants.tolist(), [float((limits >= constant).double().mean()) for constant in constants]

    return plot_inequality(
        {title: {name: shares(limits) for name, limits in radii.items()} for title, radii in largest.items()}
    )


def approximation(
    view: MAEView, clean: Tensor, index: Tensor, attacked: Mapping[float, Tensor], *, features: int, seed: int
) -> Shown:
    """How near Theorem 3.1's right side comes to the variation of unnormalised and of softmax attention, by radius."""
    rows, points = [], dict[str, dict[str, tuple[list[float], list[float]]]]()
    for eps, images in attacked.items():
        generator = torch.Generator(clean.device).manual_seed(seed)
        layers = decoder_kernel_variation(
            view.model, clean, images, view.mask(index), features=features, generator=generator
        )
        both = KernelVariation(*(torch.cat([n.flatten().cpu() for n in part]) for part in zip(*layers, strict=True)))
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
    return rows, plot_kernel_approximation(points, ylabel="approximation")


def _median_ratio(values: Tensor, reference: Tensor) -> float:
    return float((values / reference).median())
