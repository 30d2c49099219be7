"""The Fréchet distance between two sets of features, each taken as a Gaussian: FID, with a network of one's choice.

Axes: b batch, d features.

Source: Heusel et al. 2017, arXiv:1706.08500; distance of Gaussians: Dowson and Landau 1982, J. Multivariate Anal. 12.
"""

import torch
from torch import Tensor

from .arrays import Matrix, as_matrix


class GaussianMoments:
    """Mean and covariance of features that come in batches, in float64; nothing but the moments is kept.

    Batches are merged by their own means (Chan et al. 1982), so that a large common offset costs no digits. The result
    does not depend on the batches but for rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)  # sum of outer products of deviations from the mean

    def update(self, features: Matrix) -> None:
        """Take in a batch of features (b, d), b at least 1, with the d of the first batch.

        Raises:
            TypeError, ValueError: if the features are no finite matrix, or d changes.
        """
        x = as_matrix(features, "features").detach().to(torch.float64)
        mean = x.mean(dim=0)
        deviations = x - mean
        self._merge(len(x), mean, deviations.T @ deviations)

    def merge(self, other: "GaussianMoments") -> None:
        """Take in all samples of `other`, e.g. those of another process."""
        if other.count:
            self._merge(other.count, other._mean, other._scatter)

    @property
    def mean(self) -> Tensor:
        """The mean (d,), float64."""
        if self.count == 0:
            raise ValueError("no features were taken in yet; call update first")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (d, d), float64; needs two samples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        return self._scatter / (self.count - 1)

    def distance(self, other: "GaussianMoments") -> float:
        """The Fréchet distance to other moments; see `frechet_distance`."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean.clone(), scatter.clone()
            return
        if len(mean) != len(self._mean):
            raise ValueError(f"expected {len(self._mean)} features as in the batches before, got {len(mean)}")
        total = self.count + count
        shift = mean.to(self._mean.device) - self._mean
        self._scatter += scatter.to(shift.device) + torch.outer(shift, shift) * (self.count * count / total)
        self._mean = self._mean + shift * (count / total)
        self.count = total


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Computes |mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), the distance between two Gaussians.

    The trace of the last root is the sum of the singular values of cov1^(1/2) cov2^(1/2), whose factors come from
    symmetric eigen-decompositions: real, and exact for singular covariances, where the root of the product of the
    matrices themselves need not exist. Figures of FID are this distance for features of one Inception network; they
    grow with fewer samples, so compare only figures of the same network and the same numbers of samples.

    Args:
        mean1: (d,), floating; computed in float64.
        cov1: (d, d), symmetric and positive semi-definite up to rounding.

    Raises:
        ValueError: if shapes differ, a value is not finite, or a matrix is not symmetric or has negative eigenvalues.

    Source: Eq. 6 of Heusel et al. 2017, arXiv:1706.08500.
    """
    mean1, mean2 = _vector(mean1, "mean1"), _vector(mean2, "mean2")
    if mean1.shape != mean2.shape:
        raise ValueError(f"mean1 and mean2 must have the same length, got {len(mean1)} and {len(mean2)}")
    cov1, cov2 = _symmetric(cov1, "cov1", len(mean1)), _symmetric(cov2, "cov2", len(mean1))
    overlap = torch.linalg.svdvals(_root(cov1, "cov1") @ _root(cov2, "cov2")).sum()
    squared = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    return max(float(squared), 0.0)  # rounding leaves -1e-15 where the Gaussians are equal


def _vector(x: Tensor, name: str) -> Tensor:
    x = x.detach().to("cpu", torch.float64)
    if x.ndim != 1 or not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be a finite vector (features,), got shape {tuple(x.shape)}")
    return x


def _symmetric(x: Tensor, name: str, width: int) -> Tensor:
    x = x.detach().to("cpu", torch.float64)
    if tuple(x.shape) != (width, width):
        raise ValueError(f"{name} must have shape ({width}, {width}) like its mean, got {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values; are there at least two samples?")
    if not torch.allclose(x, x.T, rtol=0, atol=1e-6 * float(x.abs().max())):
        raise ValueError(f"{name} must be symmetric; pass a covariance, not a factor of it")
    return (x + x.T) / 2


def _root(cov: Tensor, name: str) -> Tensor:
    """The symmetric root of a positive semi-definite matrix; eigenvalues within rounding of zero count as zero."""
    values, vectors = torch.linalg.eigh(cov)
    largest = float(values.abs().max())
    if float(values.min()) < -1e-6 * largest:
        raise ValueError(f"{name} has the eigenvalue {float(values.min()):.3g}; a covariance has none below zero")
    rounding = largest * len(values) * torch.finfo(values.dtype).eps
    values = torch.where(values > rounding, values, 0.0)
    return (vectors * values.sqrt()) @ vectors.T
