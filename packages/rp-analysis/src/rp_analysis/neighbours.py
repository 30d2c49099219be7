"""Nearest neighbours by inner product, in row blocks, with bounded memory and a defined order at ties."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .arrays import row_block, row_norms, row_slices


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of each of n samples, the sample itself excluded."""

    index: Tensor  # (n, k) int64, the neighbours of row i, nearest first
    similarity: Tensor  # (n, k) float64, their inner products (cosines where rows were normalised)


def nearest_neighbours(x: Tensor, k: int, *, normalize: bool = True) -> Neighbours:
    """Finds for each row the k other rows with the largest inner product.

    Blocks of b rows are compared with all n, so that memory is O(b n + n d + n k) and no n x n matrix exists.
    The similarities of the pairs that are kept are computed again in float64.

    Args:
        x: (n, d) finite features, float32 or float64.
        k: number of neighbours, 1 to n - 1.
        normalize: compare cosines; otherwise inner products of the rows as they are.

    Returns:
        The neighbours, nearest first; equal similarities are ordered by the lower index.
    """
    n, d = x.shape
    norm = row_norms(x) if normalize else torch.ones(n, 1, dtype=torch.float64, device=x.device)
    c, bias = _centred(x, norm, _search_dtype(x, k))
    index = torch.empty(n, k, dtype=torch.int64, device=x.device)
    similarity = torch.empty(n, k, dtype=torch.float64, device=x.device)
    for rows in row_slices(n, row_block(n, elements=2**21, least=256)):
        score = torch.addmm(bias, c[rows], c.T)
        own = torch.arange(rows.start, rows.stop, device=x.device)
        score[own - rows.start, own] = -torch.inf
        index[rows] = _top_k(score, k)
    for rows in row_slices(n, row_block(k * d, elements=2**19)):
        near = x[index[rows]].double() / norm[index[rows]]
        similarity[rows] = torch.einsum("nd,nkd->nk", x[rows].double() / norm[rows], near)
    return Neighbours(index, similarity)


def _centred(x: Tensor, norm: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows c = u - m of the scaled features u with mean m, (n, d), and the products m . c, (n,).

    <u_i, u_j> = c_i . c_j + m . c_j + (terms without j), so that both order the candidates j alike; but the products
    of near-parallel features (after a ReLU) lose their digits in float32 and those of c do not.
    """
    blocks = list(row_slices(len(x), row_block(x.shape[1], elements=2**20)))
    mean = x.new_zeros(x.shape[1], dtype=torch.float64)
    for rows in blocks:
        mean += (x[rows].double() / norm[rows]).sum(dim=0) / len(x)
    c, bias = torch.empty_like(x, dtype=dtype), x.new_empty(len(x), dtype=dtype)
    for rows in blocks:
        exact = (x[rows].double() / norm[rows]).sub_(mean)
        c[rows], bias[rows] = exact.to(dtype), (exact @ mean).to(dtype)
    return c, bias


def _search_dtype(x: Tensor, k: int) -> torch.dtype:
    """The precision of the search: float32 for float32 features, with two exceptions.

    Long lists hold many near-ties, and reduced-precision products (TF32) would choose other neighbours.
    """
    tf32 = x.is_cuda and torch.get_float32_matmul_precision() != "highest"
    return torch.float64 if tf32 or 16 * k > len(x) else x.dtype


def _top_k(score: Tensor, k: int) -> Tensor:
    """Indices of the k largest entries per row, (b, k); among equal entries the lower index comes first."""
    value, index = score.topk(min(k + 1, score.shape[1]), dim=1)
    tied = (value[:, 1:] == value[:, :-1]).any(dim=1).nonzero().squeeze(1)
    index = index[:, :k]
    if len(tied):  # rare for real features: sort these rows in full, stably
        index[tied] = score[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return index
