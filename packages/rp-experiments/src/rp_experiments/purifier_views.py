"""What a masked autoencoder sees in versions of the same images: Fig. 1, 2 and 8 of the MAE-Pure paper."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from rp_analysis import Plot, TargetMaps, plot_image_grid, plot_target_attention
from rp_models.networks.transformer import patchify, unpatchify
from rp_purify import MAEView, central_target, moved_attention, target_attention
from torch import Tensor


class AttentionReport(NamedTuple):
    """How far attention moved, by version, mean over images and in [0, 1]; how often the last version came nearer."""

    moved: dict[str, float]
    nearer: float
    plot: Plot


def attention_of_targets(
    view: MAEView, versions: Mapping[str, Tensor], index: Tensor, *, drawn: tuple[str, ...], count: int, batch_size: int
) -> AttentionReport:
    """The attention of each image's most central hidden patch, in the last decoder layer.

    Args:
        view: an autoencoder with its masks.
        versions: by name, versions (b, c, h, w) of the same images; first the clean ones, then the attacked ones, last
            the purified ones.
        index: int64 (b,), the images' indices.
        drawn: the versions that are drawn.
        count: so many images are drawn: those whose attention the attack moves most.
        batch_size: images at a time.
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


@torch.no_grad()
def reconstruction_sheet(view: MAEView, versions: Mapping[str, Tensor], index: Tensor) -> Plot:
    """The masked images, and each version with what the autoencoder reconstructs from its visible patches.

    Args:
        view: an autoencoder with its masks.
        versions: by name, versions (b, c, h, w) of the same images; first the clean ones.
        index: int64 (b,), the images' indices.
    """
    size, clean = view.model.patch_size, next(iter(versions.values()))
    hidden = view.mask(index).mask[:, :, None].expand_as(patchify(clean, size))
    sheet = {"masked": clean.masked_fill(unpatchify(hidden, size) > 0, torch.nan)}
    for name, x in versions.items():
        sheet |= {name: x, f"from {name}": view.reconstruction(x, index)}
    return plot_image_grid(sheet)


def _maps(view: MAEView, x: Tensor, index: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """Weights (b, n) of the targets in one version of the images."""
    parts: list[Any] = []
    for rows in torch.arange(len(x), device=x.device).split(batch_size):
        attention = view(x[rows], index[rows]).attention[-1]
        parts.append(target_attention(attention, view.mask(index[rows]), target[rows]))
    return torch.cat(parts)
