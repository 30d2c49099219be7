"""Geometry of the threat models: balls in the Linf, L2, L1 and L0 norms around an image, cut with the box [0, 1]."""

import math

import torch
from torch import Tensor

from rp_attacks import noise
from rp_attacks.radii import NORMS as NORMS
from rp_attacks.radii import AnyNorm as AnyNorm
from rp_attacks.radii import Norm as Norm


def size(delta: Tensor, norm: AnyNorm) -> Tensor:
    """The norm (b,) of each image's perturbation (b, ...); L0 counts values, each channel of a pixel for itself."""
    flat = delta.flatten(1)
    if norm == "l0":
        return (flat != 0).sum(dim=1).to(delta.dtype)
    if norm == "linf":
        return flat.abs().amax(dim=1)
    return torch.linalg.vector_norm(flat, ord=2 if norm == "l2" else 1, dim=1)


def pixels(delta: Tensor) -> Tensor:
    """How many pixels of each image a perturbation (b, c, h, w) changes in any channel, (b,) of int64."""
    return (delta != 0).any(dim=1).flatten(1).sum(dim=1)


def project(
    x_adv: Tensor,
    x: Tensor,
    *,
    norm: AnyNorm,
    eps: float | Tensor,
    box_first: bool = False,
    l1_box: bool = False,
) -> Tensor:
    """Bring images back into the ball of radius eps around x and into [0, 1].

    Both orders end inside ball and box, because x lies in the box: clipping only shortens a perturbation. Published
    codes differ in the order, and so do their iterates.

    Args:
        x_adv: (b, ...).
        x: centres, the same shape, in [0, 1].
        norm: of the ball.
        eps: radius in units of [0, 1] pixels (in L0 the number of values), one or (b,).
        box_first: clip to [0, 1] before the projection on the ball instead of after it.
        l1_box: for L1, the exact projection on the intersection of ball and box.
    """
    if norm == "linf":
        reach = column(eps, x) if isinstance(eps, Tensor) else eps
        return torch.minimum(torch.maximum(x_adv, x - reach), x + reach).clamp(0.0, 1.0)
    if norm == "l1" and l1_box:
        return (x + project_l1_in_box(x_adv - x, x, eps)).clamp(0.0, 1.0)
    delta = (x_adv.clamp(0.0, 1.0) if box_first else x_adv) - x
    if norm == "l0":
        return torch.where(_largest(delta, eps), x_adv, x).clamp(0.0, 1.0)  # the values kept are the very ones
    delta = project_l1(delta, eps) if norm == "l1" else _project_l2(delta, eps)
    return (x + delta).clamp(0.0, 1.0)


def _project_l2(delta: Tensor, eps: float | Tensor) -> Tensor:
    length = column(size(delta, "l2"), delta).clamp_min(torch.finfo(delta.dtype).tiny)
    return delta * ((column(eps, delta) if isinstance(eps, Tensor) else eps) / length).clamp_max(1.0)


def _largest(delta: Tensor, count: float | Tensor) -> Tensor:
    """Where each image's `count` largest values are; of equal ones the first."""
    order = delta.flatten(1).abs().argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank + 1 <= (count[:, None] if isinstance(count, Tensor) else count)).reshape(delta.shape)


def project_l1(delta: Tensor, eps: float | Tensor) -> Tensor:
    """Euclidean projection of each image's perturbation (b, ...) on the L1 ball of radius eps, one or (b,).

    Source: Fig. 1 of Duchi et al. 2008, "Efficient projections onto the l1-ball", ICML.
    """
    flat = delta.flatten(1).double()
    ordered = flat.abs().sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - (eps[:, None] if isinstance(eps, Tensor) else eps)
    count = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    rho = (ordered * count > excess).sum(dim=1, keepdim=True).clamp_min(1)
    theta = (excess.gather(1, rho - 1) / rho).clamp_min(0.0)
    return (flat.sign() * (flat.abs() - theta).clamp_min(0.0)).to(delta.dtype).reshape(delta.shape)


def project_l1_in_box(delta: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """Euclidean projection of each perturbation on {d : |d|_1 <= eps and 0 <= x + d <= 1}.

    The solution is sign(delta) * clip(|delta| - theta, 0, room) with room the way to the bound that the coordinate
    points at. The sum is piecewise linear in theta; its kinks are sorted to find where it equals eps.
    Source: Prop. 2.1 of Croce & Hein 2021, arXiv:2103.01208.
    """
    flat, centre = delta.flatten(1).double(), x.flatten(1).double()
    length, room = flat.abs(), torch.where(flat > 0, 1.0 - centre, centre)
    kinks = torch.cat([length, length - room], dim=1)
    slope = torch.cat([torch.ones_like(length), -torch.ones_like(length)], dim=1)
    kinks, order = kinks.sort(dim=1, descending=True, stable=True)
    slope = slope.gather(1, order).cumsum(dim=1)
    rise = slope[:, :-1] * (kinks[:, :-1] - kinks[:, 1:])
    total = torch.cat([torch.zeros_like(kinks[:, :1]), rise.cumsum(dim=1)], dim=1)  # at each kink, from above
    eps = eps[:, None] if isinstance(eps, Tensor) else eps
    before = (total < eps).sum(dim=1, keepdim=True).clamp(1, total.shape[1]) - 1
    grown = (eps - total.gather(1, before)) / slope.gather(1, before).clamp_min(1.0)
    theta = (kinks.gather(1, before) - grown).clamp_min(0.0)  # below 0: the point was inside the ball already
    inside = torch.minimum((length - theta).clamp_min(0.0), room)
    return (flat.sign() * inside).to(delta.dtype).reshape(delta.shape)


def random_start(x: Tensor, *, norm: AnyNorm, eps: float, seed: int, index: Tensor, purpose: str = "start") -> Tensor:
    """A uniform random point of the ball around each image, clipped to [0, 1].

    L2 uses a Gaussian direction and L1 a Laplace direction, both with radius eps * u^(1/d); L0 sets eps random values
    to random ones. The draws are those of (seed, image index (b,), purpose).
    """
    shape, wide = x.shape[1:], x.to(torch.promote_types(x.dtype, torch.float32))
    u = noise.uniform(shape, seed=seed, purpose=purpose, index=index, like=wide)
    if norm == "linf":
        return (wide + eps * (2 * u - 1)).clamp(0.0, 1.0).to(x.dtype)
    if norm == "l0":
        order = noise.uniform(shape, seed=seed, purpose=purpose + "/values", index=index, like=wide)
        return torch.where(_largest(order, eps), u, wide).to(x.dtype)
    if norm == "l2":
        direction = noise.normal(shape, seed=seed, purpose=purpose + "/direction", index=index, like=wide)
    else:
        direction = _laplace(u)
    radius = noise.uniform((), seed=seed, purpose=purpose + "/radius", index=index, like=wide) ** (1 / x[0].numel())
    return (wide + eps * column(radius, x) * unit(direction, norm)).clamp(0.0, 1.0).to(x.dtype)


def _laplace(u: Tensor) -> Tensor:
    """Laplace draws from uniform ones, which are multiples of 2^-24 from 0 on."""
    centred = u - 0.5 + 2.0**-25  # in the open interval (-1/2, 1/2), and never 0
    return -centred.sign() * torch.log1p(-2 * centred.abs())


def unit(delta: Tensor, norm: Norm) -> Tensor:
    """Each row of finite numbers divided by its length, however small or large its entries; a row of zeros stays."""
    tiny = torch.finfo(delta.dtype).tiny
    scaled = delta / column(size(delta, "linf"), delta).clamp_min(tiny)  # else a square under- or overflows
    return scaled if norm == "linf" else scaled / column(size(scaled, norm), delta).clamp_min(tiny)


def repaired(grad: Tensor) -> tuple[Tensor, Tensor]:
    """A gradient without entries that are no number, and the share (b,) of each image's entries that were none.

    NaN becomes 0, and an infinite entry the image's largest finite one: a slope is infinite e.g. where a root is taken
    of a black pixel, which then counts as one of the steepest.
    """
    known = grad.isfinite()  # whether all are is not asked: a device would have to be waited for
    largest = column(size(torch.where(known, grad, 0.0), "linf"), grad)
    steepest = grad.sign().nan_to_num() * torch.where(largest > 0, largest, 1.0)
    return torch.where(known, grad, steepest), 1 - known.to(grad.dtype).flatten(1).mean(dim=1)


def ascent_step(grad: Tensor, at: Tensor, *, norm: Norm, step_size: float, sparsity: float = 0.05) -> Tensor:
    """The step of the given length that raises a linear function fastest.

    Linf: sign. L2: the normalised gradient. L1: the signs of the largest coordinates in equal parts, leaving out those
    that stand at a bound of [0, 1] and point outwards (SLIDE, Tramèr & Boneh 2019, arXiv:1904.13000).

    Args:
        grad: (b, ...).
        at: the images where it was taken, the same shape; used by L1 alone.
        norm: of the step.
        step_size: its length in that norm.
        sparsity: share of the coordinates that an L1 step moves.

    Returns:
        Tensor of the same shape.
    """
    if norm == "linf":
        return step_size * grad.sign()
    if norm == "l2":
        return step_size * unit(grad, "l2")
    outward = ((at <= 0) & (grad < 0)) | ((at >= 1) & (grad > 0))
    flat = grad.masked_fill(outward, 0.0).flatten(1)
    kept = flat.abs().topk(max(1, math.ceil(sparsity * flat.shape[1])), dim=1).indices
    signs = torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept).sign())
    step = step_size * signs / signs.abs().sum(dim=1, keepdim=True).clamp_min(1.0)
    return step.reshape(grad.shape)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(b,) as (b, 1, ..., 1), to be combined with images."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def taken(rows: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """Images (b, ...), of the given rows (b,) from `these`, else from `others`; no GPU has to wait."""
    return torch.where(rows.reshape(-1, *[1] * (these.dim() - 1)), these, others)
