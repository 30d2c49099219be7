"""Figures made of images: frequency maps on one scale, and sheets of the images that activate a latent."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rp_analysis.frequency import Transform, radial_profile
from rp_analysis.sae_evaluation import TopActivations

from .style import DIVERGING, SEQUENTIAL, Plot, Row, line_style, new_figure, require, style


def draw_maps(
    maps: Mapping[str, Tensor], *, label: str, low_at: Literal["centre", "upper left"], diverging: bool = False
) -> Plot:
    """Draws spectra (h, w) side by side on one colour scale; call it inside `style()`."""
    figure, panels = new_figure(len(maps), width=1.9, height=2.0)
    values = torch.cat([m.flatten().double().cpu() for m in maps.values()])
    high = float(values.abs().max() if diverging else values.max())
    low = -high if diverging else float(values.min())
    rows: list[Row] = []
    for axes, (name, spectrum) in zip(panels, maps.items(), strict=True):
        h, w = spectrum.shape
        # pixel centres stand at their integer frequencies
        left, top = (w // 2 + 0.5, h // 2 + 0.5) if low_at == "centre" else (0.5, 0.5)
        extent = (-left, w - left, h - top, -top)
        colours = DIVERGING if diverging else SEQUENTIAL
        shown = spectrum.double().cpu().numpy()
        image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        axes.set_title(name)
        axes.grid(False)
        for fy, line in zip(range(h), spectrum.tolist(), strict=True):
            shift = (h // 2, w // 2) if low_at == "centre" else (0, 0)
            rows += [{"map": name, "fy": fy - shift[0], "fx": x - shift[1], "value": v} for x, v in enumerate(line)]
    figure.colorbar(image, ax=panels, label=label, shrink=0.85)
    return Plot(figure, rows)


def plot_radial_profiles(spectra: Mapping[str, Tensor], *, transform: Transform = "fft") -> Plot:
    """Draws the mean of spectra (h, w) over rings of equal frequency, the readable form of the maps."""
    require(spectra, "spectra")
    with style():
        figure, (axes,) = new_figure()
        rows: list[Row] = []
        for i, (name, spectrum) in enumerate(spectra.items()):
            profile = radial_profile(spectrum, transform=transform).tolist()
            axes.plot(range(len(profile)), profile, label=name, **line_style(i))
            rows += [{"map": name, "radius": r, "value": value} for r, value in enumerate(profile)]
        axes.set(xlabel="spatial frequency (radius)", ylabel="mean magnitude")
        axes.legend()
        return Plot(figure, rows)


def plot_latent_sheet(images: Tensor, top: TopActivations, latents: Sequence[int], *, columns: int = 9) -> Plot:
    """Draws for each chosen latent the images that activate it most, strongest first.

    Args:
        images: (n, c, h, w) in [0, 1], c 1 or 3; row i is sample i of the features.
        top: of `top_activations` on those features.
        columns: images per latent, at most the m of `top`.
    """
    require(latents, "latents")
    columns = min(columns, top.sample.shape[1])
    with style():
        figure, panels = new_figure(columns, len(latents), width=0.7, height=0.75)
        rows: list[Row] = []
        for axes, (latent, place) in zip(panels, ((lat, c) for lat in latents for c in range(columns)), strict=True):
            sample, activation = int(top.sample[latent, place]), float(top.activation[latent, place])
            axes.set_axis_off()
            if place == 0:
                axes.set_title(f"latent {latent}", loc="left", fontsize=6)
            if sample >= 0:
                image = images[sample].clamp(0, 1).permute(1, 2, 0).squeeze(-1).cpu().numpy()
                axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            rows.append({"latent": latent, "place": place, "sample": sample, "activation": activation})
        return Plot(figure, rows)
