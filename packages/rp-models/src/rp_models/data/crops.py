"""Which part of an image a random resized crop takes."""

import math

import torch
from torch import Tensor

from rp_models import noise
from rp_models.data.augmentation import ResizedCrop

_ATTEMPTS = 10


def random_boxes(height: Tensor, width: Tensor, crop: ResizedCrop, *, seed: int, purpose: str, index: Tensor) -> Tensor:
    """Top, left, height and width, int64 (b, 4), of what the field's random resized crop takes of images.

    Area and aspect ratio are drawn up to ten times, until the part fits into the image; if none does, the part is the
    largest one in the middle whose ratio is within the range. The place is uniform. Heights and widths are int64 (b,);
    each image's draws belong to its number in `index` (b,).
    """
    draws = noise.uniform((4, _ATTEMPTS), seed=seed, purpose=f"part/{purpose}", index=index, dtype=torch.float64)
    (low, high), (narrow, wide) = crop.scale, (math.log(edge) for edge in crop.ratio)
    area = (height * width)[:, None] * (low + (high - low) * draws[:, 0])
    ratio = (narrow + (wide - narrow) * draws[:, 1]).exp()
    w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (w >= 1) & (w <= width[:, None]) & (h >= 1) & (h <= height[:, None])
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    w, h, below, right = (values.gather(1, first)[:, 0] for values in (w, h, draws[:, 2], draws[:, 3]))
    top, left = (below * (height - h + 1)).long(), (right * (width - w + 1)).long()
    found = torch.stack([top, left, h, w], dim=1)
    return torch.where(fits.any(dim=1, keepdim=True), found, _middle(height, width, crop.ratio))


def _middle(height: Tensor, width: Tensor, ratio: tuple[float, float]) -> Tensor:
    """The largest part in the middle whose width over height is within the range."""
    shape = width / height
    h = torch.where(shape < ratio[0], (width / ratio[0]).round().long(), height)
    w = torch.where(shape > ratio[1], (height * ratio[1]).round().long(), width)
    return torch.stack([(height - h) // 2, (width - w) // 2, h, w], dim=1)
