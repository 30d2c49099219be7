"""Augmentation of whole batches on their device, random per image and repeatable."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from rp_models import noise
from rp_models.data.augmentation import Augmentation
from rp_models.data.crops import random_boxes
from rp_models.data.folder_images import FolderImages
from rp_models.data.images import Images
from rp_models.values import send


def augment(x: Tensor, augmentation: Augmentation, *, seed: int, purpose: str, index: Tensor) -> Tensor:
    """Randomly varied images (b, c, h, w), float, as `augmentation` says; `x` itself if nothing is to be done.

    Each image's draws belong to its number in `index`, int64 (b,); `purpose` tells epochs apart.
    """
    if len(x) == 0:
        return x
    index = send(index, x.device)
    if augmentation.resized_crop is not None:
        height, width = (torch.full_like(index, side) for side in x.shape[-2:])
        boxes = random_boxes(height, width, augmentation.resized_crop, seed=seed, purpose=purpose, index=index)
        x = resized_parts(x, boxes)
    if augmentation.crop_padding or augmentation.flip:
        padding, flip = augmentation.crop_padding, augmentation.flip
        x = crop_and_flip(x, padding=padding, flip=flip, seed=seed, purpose=purpose, index=index)
    if augmentation.rotation_degrees:
        draw = noise.uniform((), seed=seed, purpose=f"rotation/{purpose}", index=index)
        x = rotate(x, (2 * draw - 1) * augmentation.rotation_degrees)
    if augmentation.cutout:
        centre = [
            noise.integers(side, (), seed=seed, purpose=f"cutout {axis}/{purpose}", index=index)
            for axis, side in zip(("row", "column"), x.shape[-2:], strict=True)
        ]
        x = cut_out(x, *centre, size=augmentation.cutout)
    return x


def augmented_batch(
    images: Images, index: Tensor, augmentation: Augmentation, *, seed: int, purpose: str, draw: Tensor
) -> tuple[Tensor, Tensor]:
    """A training batch on the set's device: the images (b, c, h, w) at positions `index`, randomly varied, and labels.

    `index` and `draw` are best on the CPU: no GPU is waited for then.

    Of `FolderImages`, a random resized crop is taken from the full picture while decoding; of other sets, from the
    image as the set gives it. Each image's draws belong to its number in `draw`, int64 (b,), e.g. its place in the
    whole training.
    """
    crop = augmentation.resized_crop
    if isinstance(images, FolderImages) and crop is not None:
        x, y = images.crops(index, crop, seed=seed, purpose=purpose, draw=draw)
        augmentation = dataclasses.replace(augmentation, resized_crop=None)
    else:
        x, y = images.batch(index)
    return augment(x, augmentation, seed=seed, purpose=purpose, index=draw), y


def crop_and_flip(x: Tensor, *, padding: int, flip: bool, seed: int, purpose: str, index: Tensor) -> Tensor:
    """Random crops of the images (b, c, h, w) after `padding` zeros on each side, mirrored with probability one half.

    Each image's draws belong to its number in `index`, int64 (b,).
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


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Images (b, c, h, w) rotated about their centres by angles (b,), counter-clockwise, in degrees.

    Each value is that of the nearest pixel, zero outside.
    """
    height, width = x.shape[-2:]
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # where each pixel comes from, in units of half the image
    theta = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], dim=1).unflatten(1, (2, 3))
    grid = F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def cut_out(x: Tensor, row: Tensor, column: Tensor, *, size: int) -> Tensor:
    """Images with a square of zeros, cut off at the border (DeVries and Taylor 2017, arXiv:1708.04552).

    `row` and `column`, int64 (b,), are the squares' centres: of an even side, the first pixel after the middle.
    """
    first_row, first_column = (centre - size // 2 for centre in (row, column))
    rows, columns = (torch.arange(side, device=x.device) for side in x.shape[-2:])
    down = (rows >= first_row[:, None]) & (rows < first_row[:, None] + size)
    across = (columns >= first_column[:, None]) & (columns < first_column[:, None] + size)
    return x.masked_fill((down[:, :, None] & across[:, None, :])[:, None], 0.0)


def resized_parts(x: Tensor, boxes: Tensor) -> Tensor:
    """Parts of images, stretched to the images' size bilinearly; what lies outside a part has no influence.

    `boxes`, int64 (b, 4), hold top, left, height and width, inside the images (b, c, h, w).
    """
    height, width = x.shape[-2:]
    top, left, h, w = boxes.to(x.dtype)[:, :, None].unbind(dim=1)
    rows = _sources(height, top, h)
    columns = _sources(width, left, w)
    grid = torch.stack(
        torch.broadcast_tensors(((2 * columns + 1) / width - 1)[:, None, :], ((2 * rows + 1) / height - 1)[:, :, None]),
        dim=-1,
    )
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sources(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Where in the image the pixels of a stretched part come from, (b, size), kept inside the part."""
    position = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    offset = position * length / size - 0.5
    return start + torch.minimum(offset.clamp_min(0.0), length - 1)
