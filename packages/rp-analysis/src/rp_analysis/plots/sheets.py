"""Contact sheets: rows of small images on one page, e.g. originals above what a model made of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .style import Plot, Row, new_figure, require, style

HIDDEN = (0.90, 0.76, 0.55)
"""The colour of pixels that are NaN: no grey, so that it cannot be taken for image content."""
PAGE = 0.75
"""The grey between images: a white border would hide where a white image ends."""
_TILE = 0.55  # inches, height and width of one image
_LETTER = 0.06  # inches, width of a letter of a row's name


def plot_image_grid(images: Mapping[str, Tensor], *, title: str = "", columns: Sequence[str] = ()) -> Plot:
    """Draws a sheet of images, one named row each.

    Args:
        images: per row, float (m, c, h, w) in [0, 1] with c 1 or 3, at least one image; values outside are clipped,
            NaN pixels (e.g. hidden patches) are drawn in a colour of their own. Rows may differ in m.
        columns: names of the columns, as many as the longest row has images; none by default.

    Returns:
        The figure, and for each image its row, column and mean (over the pixels that are not NaN).
    """
    require(images, "images")
    _check(images, columns)
    count, (_, h, w) = max(map(len, images.values())), next(iter(images.values())).shape[1:]
    gap = max(1, h // 16)
    page = torch.full((3, len(images) * (h + gap) - gap, count * (w + gap) - gap), PAGE)
    rows: list[Row] = []
    for i, (name, row) in enumerate(images.items()):
        for j, image in enumerate(row.detach().float().cpu()):
            top, left = i * (h + gap), j * (w + gap)
            page[:, top : top + h, left : left + w] = _painted(image)
            rows.append({"row": name, "column": j, "mean": float(image.nanmean())})
    with style():
        names = _LETTER * max(map(len, images)) + 0.3  # room for the rows' names
        figure, (axes,) = new_figure(width=_TILE * count + names, height=_TILE * len(images) * h / w + 0.3)
        figure.set_layout_engine("compressed")  # the one that keeps names beside pictures of a fixed shape on the page
        axes.imshow(page.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_yticks([i * (h + gap) + (h - 1) / 2 for i in range(len(images))], list(images))
        axes.set_xticks([j * (w + gap) + (w - 1) / 2 for j in range(len(columns))], list(columns))
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        axes.set(title=title, frame_on=False)
        axes.grid(False)
        return Plot(figure, rows)


def _painted(image: Tensor) -> Tensor:
    """One image (c, h, w) as colours (3, h, w) in [0, 1]."""
    hidden = torch.tensor(HIDDEN)[:, None, None]
    return torch.where(image.isnan(), hidden, image.clamp(0, 1).expand(3, -1, -1))


def _check(images: Mapping[str, Tensor], columns: Sequence[str]) -> None:
    """Refuse rows that do not fit together."""
    shapes = {tuple(row.shape[1:]) for row in images.values()}
    if len(shapes) > 1 or any(row.dim() != 4 or len(row) == 0 or row.shape[1] not in (1, 3) for row in images.values()):
        shown = ", ".join(f"{name} {tuple(row.shape)}" for name, row in images.items())
        raise ValueError(f"expected image batches (m, 1 or 3, height, width) of one size and m >= 1, got {shown}")
    count = max(map(len, images.values()))
    if columns and len(columns) != count:
        raise ValueError(f"expected a name for each of {count} columns, got {len(columns)}")
