"""Augmentation of whole batches on their device, random per image and repeatable."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rp_models import noise


def crop_and_flip(x: Tensor, *, padding: int, flip: bool, seed: int, purpose: str, index: Tensor) -> Tensor:
    """Random crops of the zero-padded images, mirrored with probability one half.

    Args:
        x: images (b, c, h, w).
        padding: zero pixels added on each side before the crop.
        flip: whether to mirror left and right.
        seed: of the draws.
        purpose: what the draws are for, e.g. the epoch.
        index: int64 tensor (b,) that numbers the images; each draw belongs to its number.

    Returns:
        Images of the same shape.
    """
    height, width = x.shape[-2:]
    draws = noise.integers(2 * padding + 1, (2,), seed=seed, purpose=f"crop/{purpose}", index=index.to(x.device))
    columns = torch.arange(width, device=x.device).expand(len(x), width)
    if flip:
        coin = noise.integers(2, (1,), seed=seed, purpose=f"flip/{purpose}", index=index.to(x.device))
        columns = torch.where(coin == 1, width - 1 - columns, columns)
    rows = draws[:, :1] + torch.arange(height, device=x.device)
    columns = draws[:, 1:] + columns
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
