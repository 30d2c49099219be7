"""Alignment and uniformity of representations on the unit sphere, for clean/adversarial pairs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .arrays import Matrix, as_matrix, as_pair, row_norms, row_slices


def alignment_loss(x: Matrix, y: Matrix, *, alpha: float = 2.0, normalize: bool = True) -> Tensor:
    """Computes the mean distance between the two views of each sample, raised to `alpha`.

    Args:
        x: (n, d) features of clean images.
        y: (n, d) features of the adversarial images made from them, in the same order.
        alpha: exponent of the Euclidean distance.
        normalize: scale rows to unit length first, as the definition assumes; False takes rows as they are.

    Returns:
        Scalar tensor in the dtype of `x`, differentiable; in [0, 2^alpha] for unit rows, lower is better aligned.

    Source: Wang & Isola 2020, arXiv:2005.10242, L_align.
    """
    u, v = as_pair(x, y, ("x", "y"))
    if u.shape != v.shape:
        raise ValueError(f"x and y must be two views in one feature space, got {tuple(u.shape)} and {tuple(v.shape)}")
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    u, v = _rows(u, normalize), _rows(v, normalize)
    # Differences, not 2 - 2 cos: clean and adversarial features can be closer than the rounding of the cosine.
    squared = (u - v).square().sum(dim=1)
    if alpha != 2:
        # d^alpha has no gradient at d = 0 for alpha < 2; identical views get zero instead of NaN
        apart = squared > 0
        squared = torch.where(apart, squared, 1.0).pow(alpha / 2) * apart
    return squared.mean(dtype=torch.float64).to(u.dtype)


def uniformity_loss(x: Matrix, *, t: float = 2.0, normalize: bool = True, block: int = 1024) -> Tensor:
    """Computes the log of the mean Gaussian potential over all distinct pairs of samples.

    Pairs are visited in tiles and recomputed in the backward pass, so that memory is O(n d + block^2).

    Args:
        x: (n, d) features, n >= 2.
        t: inverse width of the Gaussian, positive.
        normalize: scale rows to unit length first, as the definition assumes; False takes rows as they are, and
            then far-apart rows can give -inf.

    Returns:
        Scalar tensor in the dtype of `x`, differentiable; for unit rows in [-4t, 0], lower is more uniform, -2t in
        the limit of many dimensions.

    Source: Wang & Isola 2020, arXiv:2005.10242, L_uniform.
    """
    u = as_matrix(x, "x", rows=2)
    if t <= 0 or block < 1:
        raise ValueError(f"t and block must be positive, got t = {t}, block = {block}")
    u = _rows(u, normalize)
    n = len(u)
    total: Tensor = _PotentialSum.apply(u, t, block)
    return (total / (n * (n - 1) / 2)).log().to(u.dtype)


def alignment_score(x: Matrix, y: Matrix, *, alpha: float = 2.0, normalize: bool = True) -> float:
    """Computes the negated alignment loss, so that higher is better aligned; see `alignment_loss`."""
    with torch.no_grad():
        return -float(alignment_loss(x, y, alpha=alpha, normalize=normalize))


def uniformity_score(x: Matrix, *, t: float = 2.0, normalize: bool = True, block: int = 1024) -> float:
    """Computes the negated uniformity loss, so that higher is more uniform; see `uniformity_loss`."""
    with torch.no_grad():
        return -float(uniformity_loss(x, t=t, normalize=normalize, block=block))


def _rows(x: Tensor, normalize: bool) -> Tensor:
    return x / row_norms(x).to(x.dtype) if normalize else x


class _PotentialSum(Function):
    """Sum of exp(-t |u_i - u_j|^2) over i < j, in float64; tiles are made again for the gradient, not kept."""

    @staticmethod
    def forward(u: Tensor, t: float, block: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=u.device)
        for left, right in _tiles(len(u), block):
            total += _potential(u, left, right, t).sum(dtype=torch.float64)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u, ctx.t, ctx.block = inputs
        ctx.save_for_backward(u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        grad_u = torch.zeros_like(u)
        for left, right in _tiles(len(u), ctx.block):
            p = _potential(u, left, right, ctx.t)
            # d/du_i exp(-t |u_i - u_j|^2) = -2t p_ij (u_i - u_j), and the opposite for u_j
            grad_u[left] -= 2 * ctx.t * (p.sum(dim=1, keepdim=True) * u[left] - p @ u[right])
            grad_u[right] -= 2 * ctx.t * (p.sum(dim=0).unsqueeze(1) * u[right] - p.T @ u[left])
        return grad.to(u.dtype) * grad_u, None, None


def _tiles(n: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Tiles that cover the pairs i <= j once."""
    rows = list(row_slices(n, block))
    return ((left, right) for i, left in enumerate(rows) for right in rows[i:])


def _potential(u: Tensor, left: slice, right: slice, t: float) -> Tensor:
    """exp(-t d^2) of a tile's pairs, zero where not i < j."""
    a, b = u[left], u[right]
    squared = torch.addmm(b.square().sum(dim=1), a, b.T, alpha=-2).add_(a.square().sum(dim=1, keepdim=True))
    potential = squared.clamp_(min=0).mul_(-t).exp_()  # rounding may leave -1e-7 for duplicates
    return potential.triu_(1) if left == right else potential
