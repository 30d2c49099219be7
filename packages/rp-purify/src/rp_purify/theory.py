"""The paper's theorems as checks that can be run: how good the approximations are, how often the inequalities hold.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", Theorems 3.1, 3.2 and J.1. None of the functions here
is a guarantee: 3.1 is a first-order approximation of unnormalised attention, steps in the proof of 3.2 do not follow as
printed, and J.1 is about plain gradient descent and averaged images where the method uses signs and the last image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from rp_models.mask import Mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.networks.transformer import Attention
from torch import Tensor, nn


class KernelVariation(NamedTuple):
    """Both sides of Theorem 3.1 for each attention matrix, as Frobenius norms (...).

    Attributes:
        approximation: the theorem's right side: `first_order` from random features, equal to it with infinitely many.
    """

    softmax: Tensor  # of the true variation of softmax(Q K^T / sqrt(d))
    kernel: Tensor  # of the true variation of exp(Q K^T / sqrt(d)), the unnormalised weights
    first_order: Tensor  # of that variation's part that is linear in the shift
    approximation: Tensor


def kernel_variation(
    z: Tensor, delta: Tensor, w_q: Tensor, w_k: Tensor, *, features: int, generator: torch.Generator
) -> KernelVariation:
    """Theorem 3.1 for one head: attention variation by random features, linear in the shift of the inputs.

    With s = q_i + k_j, B = sum_l exp(w_l s) and Y = sum_l exp(w_l s) w_l over m random normal w_l, entry (i, j) of the
    approximation is gamma [(Y - B q_i) dq_i + (Y - B k_j) dk_j], gamma = exp(-(|q_i|^2 + |k_j|^2) / 2) / m. The factor
    1 / sqrt(d) is shared by q and k, where the paper leaves it out.

    Args:
        z: inputs (..., n, d) of a layer.
        w_q: query weights (..., d, d_head), z @ w_q being the queries; leading axes broadcast with those of `z`.
        w_k: key weights (..., d, d_head).
        features: number m of random features, the same for all matrices.
        generator: of the features, on the device of `z`.
    """
    scale = w_q.shape[-1] ** -0.25
    q, k, dq, dk = (scale * (rows @ weights) for rows in (z, delta) for weights in (w_q, w_k))
    omega = torch.randn(features, q.shape[-1], generator=generator, dtype=z.dtype, device=z.device)
    # exp(w s - (|q|^2 + |k|^2) / 2) is the product of a weight of q and one of k, each (..., n, m)
    of_q, of_k = (torch.exp(rows @ omega.T - rows.square().sum(-1, keepdim=True) / 2) for rows in (q, k))
    b = of_q @ of_k.mT
    y_dq, y_dk = (of_q * (dq @ omega.T)) @ of_k.mT, of_q @ (of_k * (dk @ omega.T)).mT
    along = y_dq - b * (q * dq).sum(-1)[..., :, None] + y_dk - b * (k * dk).sum(-1)[..., None, :]
    logits, shifted = q @ k.mT, (q + dq) @ (k + dk).mT
    differences = (
        shifted.softmax(-1) - logits.softmax(-1),
        shifted.exp() - logits.exp(),
        logits.exp() * (dq @ k.mT + q @ dk.mT),
        along / features,
    )
    return KernelVariation(*(torch.linalg.matrix_norm(difference) for difference in differences))


@torch.no_grad()
def decoder_kernel_variation(
    mae: MaskedAutoencoder, clean: Tensor, other: Tensor, mask: Mask, *, features: int, generator: torch.Generator
) -> list[KernelVariation]:
    """Theorem 3.1 on images: every head of every decoder layer, in float64.

    The layer's inputs Z are the normalised tokens that its projections get. Their biases are left in the queries and
    keys, as rows of the weights that the shift does not reach.
    """
    results = []
    before, after = (_attention_inputs(mae, x, mask) for x in (clean, other))
    for block, z, z_other in zip(mae.decoder_blocks, before, after, strict=True):
        attention = block.attn
        assert isinstance(attention, Attention)
        weight = torch.cat([attention.qkv.weight, attention.qkv.bias[:, None]], dim=1).double()  # 3 h d_head, 1 + d
        w_q, w_k, _ = weight.unflatten(0, (3, attention.heads, -1)).mT.unbind(0)  # h, 1 + d, d_head
        z, delta = nn.functional.pad(z.double(), (0, 1), value=1.0), nn.functional.pad((z_other - z).double(), (0, 1))
        results.append(kernel_variation(z[:, None], delta[:, None], w_q, w_k, features=features, generator=generator))
    return results


def _attention_inputs(mae: MaskedAutoencoder, x: Tensor, mask: Mask) -> list[Tensor]:
    """What the attention of each decoder layer gets: normalised tokens (b, 1 + n, d)."""
    seen: list[Tensor] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # type: ignore[union-attr]
        for block in mae.decoder_blocks
    ]
    try:
        mae(x, mask)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class DescentBound(NamedTuple):
    """Both sides of Theorem J.1: the loss of the averaged images over the minimum, and its bound."""

    gap: float
    bound: float


def descent_bound(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    minimum: Tensor,
    *,
    rate: float,
    steps: int,
    signs: bool = False,
    eta: float | None = None,
) -> DescentBound:
    """Theorem J.1 for one loss: S + 1 gradient steps and the average of the images they start from.

    gap = L(mean of x_0..x_S) - L(x*), bound = |x_0 - x*|^2 / (2 rate (S + 1)) + rate / (2 (S + 1)) sum |grad L(x_s)|^2;
    gap <= bound whenever L is convex, which a reconstruction loss is not.

    Args:
        minimum: x*, what the theorem calls the clean image.
        signs: step along the gradient's signs, as Eq. 3 does; the proof then says nothing.
        eta: no value moves farther than this from `start`, nor out of [0, 1], as Eq. 3 clips; None for no limit.
    """
    x, total, squares = start.detach(), torch.zeros_like(start), 0.0
    for _ in range(steps + 1):
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(loss(leaf), leaf)
        total, squares = total + x, squares + float(g.square().sum())
        x = x - rate * (g.sign() if signs else g)
        if eta is not None:
            x = (start + (x - start).clamp(-eta, eta)).clamp(0, 1)
    count = steps + 1
    gap = float(loss(total / count)) - float(loss(minimum))
    distance = float((start - minimum).square().sum())
    return DescentBound(gap, distance / (2 * rate * count) + rate / (2 * count) * squares)


class InequalityCheck(NamedTuple):
    """How often the inequality of Theorem 3.2 holds, image by image.

    Attributes:
        largest_constant: (b,), the largest H C_A with which it holds for each image; infinite where the attention
            did not change, negative where even 0 fails.
    """

    rate: float  # share of the images for which it holds with the given constants
    largest_constant: Tensor


def reconstruction_inequality(
    clean_loss: Tensor, loss: Tensor, squared_variation: Tensor, *, constant: float, bias: float = 0.0
) -> InequalityCheck:
    """Theorem 3.2, L_adv >= L / 2 + mean over layers of (H C_A |A_adv - A|^2 - c_rec) / 2, for each image.

    Args:
        clean_loss: (b,), L.
        loss: (b,), L_adv.
        squared_variation: (b, t), squared norms for each decoder layer (`Convention(squared=True)`).
        constant: H C_A, which the paper does not give.
        bias: c_rec, which it does not give either.
    """
    layers = squared_variation.mean(dim=1)
    room = 2 * loss - clean_loss + bias
    largest = torch.where(layers > 0, room / layers, torch.full_like(room, math.inf) * room.sign())
    return InequalityCheck(float((room >= constant * layers).double().mean()), largest)
