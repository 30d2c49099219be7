"""The figures of the MAE-Pure paper that show which patches of an image a masked autoencoder attends to (Fig. 2, 8)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .style import Plot, Row, new_figure, require, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HIDDEN = "#e6c28c"  # no grey, so that it cannot be taken for image content


class TargetMaps(NamedTuple):
    """How much visible patches matter for one hidden patch of an image, in several versions of the image."""

    image: Tensor  # (c, h, w) in [0, 1], c 1 or 3
    target: int  # number of the hidden patch, row by row
    maps: Mapping[str, Tensor]  # by version, weights (n,) of a square grid of patches, NaN where hidden


def plot_target_attention(examples: Sequence[TargetMaps]) -> Plot:
    """Draws which visible patches the reconstruction of a hidden patch attends to, one image a row (Fig. 2, 8).

    The first column is the masked image with the target in a red frame; in the others, a deeper red means more
    attention, on one colour scale a row, from 0 to its largest weight.
    """
    require(examples, "examples")
    versions = list(examples[0].maps)
    with style():
        figure, axes = new_figure(1 + len(versions), len(examples), width=1.25, height=1.25)
        rows: list[Row] = []
        for line, example in enumerate(examples):
            panels = axes[line * (1 + len(versions)) : (line + 1) * (1 + len(versions))]
            high = max(float(weights.nan_to_num(0).max()) for weights in example.maps.values())
            hidden = next(iter(example.maps.values())).isnan()
            _draw_image(panels[0], torch.where(_on_pixels(hidden, example.image), torch.nan, example.image))
            for panel, (version, weights) in zip(panels[1:], example.maps.items(), strict=True):
                _draw_weights(panel, example.image, weights, high)
                for patch in (~hidden).nonzero()[:, 0].tolist():
                    weight = float(weights[patch])
                    rows.append({"row": line, "version": version, "patch": patch, "weight": weight})
            for panel in panels:
                _frame(panel, example.target, example.image.shape[-1], round(len(hidden) ** 0.5))
        for panel, name in zip(axes, ["masked", *versions], strict=False):
            panel.set_title(name)
        return Plot(figure, rows)


def _on_pixels(patches: Tensor, image: Tensor) -> Tensor:
    """Values of a square grid of patches (n,) on the pixels of an image (c, h, w): (1, h, w)."""
    grid = round(len(patches) ** 0.5)
    size = image.shape[-1] // grid
    return patches.view(1, grid, grid).repeat_interleave(size, dim=1).repeat_interleave(size, dim=2)


def _draw_image(axes: "Axes", image: Tensor) -> None:
    """An image (c, h, w), pixels that are NaN in a colour of their own."""
    pixels = image.detach().cpu().expand(3, -1, -1).permute(1, 2, 0)
    colour = torch.tensor([int(_HIDDEN[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    axes.imshow(torch.where(pixels.isnan(), colour, pixels).numpy(), interpolation="nearest")
    axes.set_axis_off()


def _draw_weights(axes: "Axes", image: Tensor, weights: Tensor, high: float) -> None:
    """The weights (n,) of visible patches in red; hidden ones as in the masked image."""
    shown = _on_pixels(weights, image)[0].detach().cpu().numpy()
    axes.set_facecolor(_HIDDEN)
    axes.imshow(shown, cmap="Reds", vmin=0, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _frame(axes: "Axes", patch: int, pixels: int, grid: int) -> None:
    """A red frame around one patch."""
    from matplotlib.patches import Rectangle

    size = pixels / grid
    corner = (patch % grid * size - 0.5, patch // grid * size - 0.5)
    axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="#d00000", linewidth=1.8, clip_on=False))
