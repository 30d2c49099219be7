"""Structural similarity of images (Wang et al. 2004, "Image quality assessment: from error visibility to SSIM")."""

import torch
from torch import Tensor
from torch.nn import functional as F

_WINDOW, _STD = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # for values of range 1


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The mean similarity (b,) of images (b, c, h, w) under a Gaussian window of 11 pixels with zeros around."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    taps = (-(offsets**2) / (2 * _STD**2)).exp()
    taps = taps / taps.sum()
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)

    def blurred(image: Tensor) -> Tensor:
        return F.conv2d(image, kernel, padding=_WINDOW // 2, groups=x.shape[1])

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return (above / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))).mean(dim=(1, 2, 3))
