"""Sparse codes: encoding with TopK, decoding, and gradients that touch only the k active latents per sample.

A code of b samples is a pair (values, index), both (b, k). The cost of a backward pass is O(b k d), not O(b n d).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .arrays import row_block, row_slices


def select_top_k(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Computes the k largest pre-activations x W^T + bias of each sample, without a (b, n) matrix.

    Args:
        x: (b, d) centred inputs.
        weight: (n, d) encoder rows.
        bias: (n,).
        k: how many to keep, at most n.

    Returns:
        Pre-activations (b, k), largest first, and the latents they belong to (b, k) int64; no gradient.
    """
    with torch.no_grad():
        blocks = x.split(row_block(len(weight), elements=2**23, least=64, like=x))
        kept = [torch.addmm(bias, rows, weight.T).topk(k, dim=1) for rows in blocks]
        return torch.cat([top.values for top in kept]), torch.cat([top.indices for top in kept])


def attach_gradient(values: Tensor, index: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns pre-activations found by `select_top_k` as a differentiable function of x, weight and bias."""
    out: Tensor = _Selected.apply(values, index, x, weight, bias)
    return out


def decode(values: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Computes sum_k values_k weight[index_k], the (b, d) reconstruction of a sparse code, differentiable.

    Args:
        values: (b, k).
        index: (b, k) int64, rows of `weight`.
        weight: (n, d) decoder directions as rows.
    """
    out: Tensor = _Decode.apply(values, index, weight)
    return out


class _Selected(Function):
    """x[b] . weight[index[b, k]] + bias[index[b, k]], its value known already."""

    @staticmethod
    def forward(values: Tensor, index: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, index, x, weight, bias = inputs
        ctx.save_for_backward(index, x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, x, weight, bias = ctx.saved_tensors
        grad_x = _gather_sum(grad, index, weight) if ctx.needs_input_grad[2] else None
        grad_weight = _scatter_sum(grad, index, x, len(weight)) if ctx.needs_input_grad[3] else None
        grad_bias = torch.zeros_like(bias).index_add_(0, index.flatten(), grad.flatten())
        return None, None, grad_x, grad_weight, grad_bias


class _Decode(Function):
    """A weighted sum of rows of `weight` per sample."""

    @staticmethod
    def forward(values: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        return _gather_sum(values, index, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, index, weight = ctx.saved_tensors
        grad_values = _inner_products(grad, index, weight) if ctx.needs_input_grad[0] else None
        grad_weight = _scatter_sum(values, index, grad, len(weight)) if ctx.needs_input_grad[2] else None
        return grad_values, None, grad_weight


def _gather_sum(values: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """out[b] = sum_k values[b, k] rows[index[b, k]]."""
    return F.embedding_bag(index, rows, per_sample_weights=values, mode="sum")


def _scatter_sum(values: Tensor, index: Tensor, rows: Tensor, n: int) -> Tensor:
    """out[j] = sum over (b, k) with index[b, k] = j of values[b, k] rows[b], (n, d).

    The transpose of `_gather_sum`: entries sorted by latent make one bag of samples per latent.
    """
    latent, order = index.flatten().sort()
    sample = order // index.shape[1]
    start = torch.searchsorted(latent, torch.arange(n, device=index.device))
    return F.embedding_bag(sample, rows, start, per_sample_weights=values.flatten()[order], mode="sum")


def _inner_products(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """out[b, k] = x[b] . rows[index[b, k]], in blocks that stay in the cache."""
    out = x.new_empty(index.shape)
    for block in row_slices(len(x), row_block(index.shape[1] * x.shape[1], elements=2**20, like=x)):
        out[block] = torch.bmm(rows[index[block]], x[block].unsqueeze(2)).squeeze(2)
    return out
