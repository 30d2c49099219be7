"""EDM's augmentation: random flips and affine warps whose parameters the network is told, so that they do not leak.

Each of six changes is applied to an image with its own probability. The nine augmentation labels are zero for an
unaltered image; a sampler that gives none therefore generates unaltered images.

Axes: b batch, c channels, h w image.

Source: Appendix F.2 of Karras et al. 2022, arXiv:2206.00364; the filtering is that of Appendix B of Karras et al. 2020,
arXiv:2006.06676.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rp_models import noise
from rp_models.values import send

# low-pass filter of the sym6 wavelet: orthogonal to its even shifts, so that up- and downsampling alone change nothing
_SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_DELAY = len(_SYM6) // 2 - 1  # samples by which the filter's output lags


class Transforms(NamedTuple):
    """What happens to each image of a batch; every field is (b,), and all zero is the identity."""

    flip_x: Tensor  # 1: mirror left and right
    flip_y: Tensor  # 1: mirror top and bottom
    log_scale: Tensor  # log2 of the magnification, in standard deviations
    angle: Tensor  # radians
    log_stretch: Tensor  # log2 of the stretch along `axis` (and shrinkage across it), in standard deviations
    axis: Tensor  # radians
    shift_x: Tensor  # to the right, in standard deviations
    shift_y: Tensor  # down, in standard deviations

    def labels(self) -> Tensor:
        """The augmentation labels (b, 9) of EDM's networks, float32, in the order of the released models."""
        columns = (
            self.flip_x,
            self.flip_y,
            self.log_scale,
            self.angle.cos() - 1,
            self.angle.sin(),
            self.log_stretch * self.axis.cos(),
            self.log_stretch * self.axis.sin(),
            self.shift_x,
            self.shift_y,
        )
        return torch.stack(columns, dim=1).to(torch.float32)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Draws and applies the augmentation; the defaults are those of the CIFAR-10 models.

    Args:
        p: probability that multiplies all of the following.
        xflip: of a random mirroring (so large that half of all images are mirrored, whatever `p` is).
        yflip: of a random mirroring of top and bottom.
        scale: of a change of size.
        rotate_frac: of a rotation by any angle.
        aniso: of a stretch.
        translate_frac: of a shift.
        scale_std: standard deviation of log2 of the magnification.
        aniso_std: standard deviation of log2 of the stretch.
        aniso_rotate_prob: probability that a stretch has a random axis and not the x axis.
        translate_frac_std: standard deviation of the shift, as a fraction of the image's size.
    """

    p: float = 0.12
    xflip: float = 1e8
    yflip: float = 1.0
    scale: float = 1.0
    rotate_frac: float = 1.0
    aniso: float = 1.0
    translate_frac: float = 1.0
    scale_std: float = 0.2
    aniso_std: float = 0.2
    aniso_rotate_prob: float = 0.5
    translate_frac_std: float = 0.125

    def __call__(self, images: Tensor, *, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images (b, c, h, w) and their labels (b, 9); the draws belong to (seed, image index)."""
        transforms = self.draw(seed=seed, index=index.to(images.device))
        return self.apply(images, transforms), transforms.labels()

    def draw(self, *, seed: int, index: Tensor) -> Transforms:
        """Random transforms for images of the given indices (b,), on their device."""
        u = noise.uniform((11,), seed=seed, purpose="edm augmentation", index=index).unbind(1)
        z = noise.normal((4,), seed=seed, purpose="edm augmentation normal", index=index).unbind(1)

        def sometimes(value: Tensor, draw: Tensor, multiplier: float) -> Tensor:
            return torch.where(draw < multiplier * self.p, value, 0.0)

        return Transforms(
            flip_x=sometimes((u[0] < 0.5).to(u[0]), u[1], self.xflip),
            flip_y=sometimes((u[2] < 0.5).to(u[2]), u[3], self.yflip),
            log_scale=sometimes(z[0], u[4], self.scale),
            angle=sometimes((2 * u[5] - 1) * math.pi, u[6], self.rotate_frac),
            log_stretch=sometimes(z[1], u[7], self.aniso),
            axis=torch.where(u[8] < self.aniso_rotate_prob, (2 * u[9] - 1) * math.pi, 0.0),
            shift_x=sometimes(z[2], u[10], self.translate_frac),
            shift_y=sometimes(z[3], u[10], self.translate_frac),
        )

    def apply(self, images: Tensor, transforms: Transforms) -> Tensor:
        """Images (b, c, h, w) after the given transforms; what is outside of an image is its reflection."""
        if images.dim() != 4 or len(images) != len(transforms.flip_x):
            raise ValueError(
                f"expected {len(transforms.flip_x)} images (batch, channels, height, width), got {tuple(images.shape)}"
            )
        images = torch.where(_column(transforms.flip_x) > 0, images.flip(3), images)
        images = torch.where(_column(transforms.flip_y) > 0, images.flip(2), images)
        matrix, shift = self._inverse_map(transforms, images.shape[3], images.shape[2])
        t = transforms
        warped = (t.log_scale != 0) | (t.angle != 0) | (t.log_stretch != 0) | (t.shift_x != 0) | (t.shift_y != 0)
        return torch.where(_column(warped), _warp(images, matrix, shift), images)

    def _inverse_map(self, t: Transforms, width: int, height: int) -> tuple[Tensor, Tensor]:
        """Matrix (b, 2, 2) and shift (b, 2): a point X of the result, from the centre, shows matrix (X - shift)."""
        stretch = (t.log_stretch * self.aniso_std).exp2()
        squeeze = torch.diag_embed(torch.stack([1 / stretch, stretch], dim=1))
        matrix = _rotation(t.angle) @ _rotation(-t.axis) @ squeeze @ _rotation(t.axis)
        matrix = matrix / (t.log_scale * self.scale_std).exp2()[:, None, None]
        shift = torch.stack([t.shift_x * width, t.shift_y * height], dim=1) * self.translate_frac_std
        return matrix, shift


def _column(x: Tensor) -> Tensor:
    """One value an image, to broadcast over its pixels."""
    return x[:, None, None, None]


def _rotation(angle: Tensor) -> Tensor:
    """Rotation matrices (b, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def _warp(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Images under affine maps: reflect, double the resolution, sample bilinearly, halve the resolution."""
    height, width = images.shape[2:]
    # the largest reflection there is, not what the batch needs: an image must not depend on its neighbours
    padded = F.pad(images, [width - 1, width - 1, height - 1, height - 1], mode="reflect")
    doubled = _filter(padded, F.conv_transpose2d, padding=_DELAY)

    # pixel m is sample 2 m of the doubled image; samples of the result that the last filter reads, from the centre
    x, y = ((torch.arange(2 * size + 10, device=images.device) - _DELAY - size + 1) / 2 for size in (width, height))
    point = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # h w 2
    point = torch.einsum("bij,bhwj->bhwi", matrix, point - shift[:, None, None])
    extent = send(torch.tensor([width - 1, height - 1]), images.device)
    sample = 2 * point + 3 * extent  # in the doubled image, whose last one is 2 (3 extent + 1) - 1
    grid = 2 * sample / (6 * extent + 1) - 1
    result = F.grid_sample(doubled, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=True)
    return _filter(result, F.conv2d, padding=0)


def _filter(images: Tensor, conv: Callable[..., Tensor], *, padding: int) -> Tensor:
    """Filter rows and columns of each channel with a convolution, or a transposed one, of stride 2."""
    taps = send(torch.tensor(_SYM6, dtype=images.dtype), images.device)
    channels = images.flatten(0, 1)[:, None]
    channels = conv(channels, taps[None, None, None, :], stride=(1, 2), padding=(0, padding))
    channels = conv(channels, taps[None, None, :, None], stride=(2, 1), padding=(padding, 0))
    return channels.unflatten(0, images.shape[:2])[:, :, 0]
