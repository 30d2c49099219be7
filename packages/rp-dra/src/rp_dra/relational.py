"""Losses that compare how two networks relate the images of a batch to each other, whatever their widths.

Axes: b batch, d features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def similarity_loss(features: Tensor, target: Tensor) -> Tensor:
    """The squared difference of the two matrices of inner products between images, each row scaled to length 1.

    Args:
        features: (b, d), with gradient.
        target: (b, d'), held fixed.

    Returns:
        Scalar, 1 / b^2 times the squared Frobenius norm. Source: Tung and Mori 2019, arXiv:1907.09682, Eq. 4.
    """
    mine, theirs = (F.normalize(part @ part.T, dim=1) for part in (features, target.detach()))
    return (mine - theirs).square().mean()


def distance_loss(features: Tensor, target: Tensor) -> Tensor:
    """The Huber loss between the distances of all pairs of images, each network's divided by their mean.

    Arguments as of `similarity_loss`. Source: RKD-D of Park et al. 2019, arXiv:1904.05068, Eq. 5 to 7.
    """
    mine, theirs = _scaled_distances(features), _scaled_distances(target.detach())
    return F.smooth_l1_loss(mine, theirs)


def cka_loss(features: Tensor, target: Tensor) -> Tensor:
    """One minus the linear centred kernel alignment of the two, in [0, 1].

    Arguments as of `similarity_loss`. Source: Kornblith et al. 2019, arXiv:1905.00414, Eq. 1 and Section 3.
    """
    mine, theirs = (part - part.mean(dim=0) for part in (features, target.detach()))
    mine, theirs = mine @ mine.T, theirs @ theirs.T  # the centred kernels
    scale = mine.norm() * theirs.norm()
    return 1.0 - (mine * theirs).sum() / scale.clamp(min=1e-12)


LOSSES = {"similarity": similarity_loss, "distance": distance_loss, "cka": cka_loss}


def _scaled_distances(x: Tensor) -> Tensor:
    """The distances (b (b - 1) / 2) of the pairs of rows over their mean; a zero distance has gradient zero."""
    distances = torch.nn.functional.pdist(x)
    return distances / distances.mean().clamp(min=1e-12)
