"""How alike two representations of the same samples are: CKNNA, mutual nearest neighbours, linear CKA."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import Matrix, as_matrix, as_pair, column_mean, row_block, row_norms, row_slices
from .neighbours import Neighbours, nearest_neighbours


def cknna(
    a: Matrix,
    b: Matrix,
    k: int = 10,
    *,
    eps: float = 1e-6,
    normalize: bool = True,
    clamp_quantile: float | None = None,
) -> float:
    """Computes the centred kernel nearest-neighbour alignment of two representations.

    The ratio of unbiased HSICs of the two kernels restricted to shared neighbours, over those restricted to each
    kernel's own neighbours. Neighbour lists are directed, so swapping `a` and `b` changes the score a little. 1 for
    equal, about 0 for unrelated features; not bounded. Memory is linear in n. With k = n - 1 it equals unbiased CKA.

    Args:
        a: (n, d1) features, n >= 4.
        b: (n, d2) features of the same samples in the same order.
        k: neighbours per sample, 2 to n - 1.
        eps: added to the denominator. The default is the reference's and makes scores at different n differ (for
            unit rows and k = 10 it lowers the score by 0.07 % at n = 1,000, about 3 % at 50,000); 0 avoids that.
        normalize: scale rows to unit length first, as the published pipeline does; False takes rows as they are.
        clamp_quantile: first clamp features to +-q, q this quantile of all |features| (the pipeline uses 0.95).

    Returns:
        The score; NaN where a self-HSIC is negative (a kernel without structure at this k).

    Source: Huh et al. 2024, arXiv:2405.07987, as its public code computes it (no explicit centring); the HSIC
    estimator is Eq. 5 of Song et al. 2012.
    """
    x, y = as_pair(checked_features(a, "a", clamp_quantile), checked_features(b, "b", clamp_quantile), ("a", "b"))
    check_k(k, len(x), least=2)
    near_a = nearest_neighbours(x, k, normalize=normalize)
    near_b = nearest_neighbours(y, k, normalize=normalize)
    return cknna_of_neighbours(near_a, near_b, eps=eps)


def cknna_matrix(
    rows: Sequence[Matrix], columns: Sequence[Matrix], k: int = 10, *, eps: float = 1e-6, normalize: bool = True
) -> Tensor:
    """Computes CKNNA between every pair of two lists of representations, neighbours searched once for each.

    The published score of two multi-layer models is the largest entry, and 0 if all are negative.

    Args:
        rows: r matrices (n, d) of the same n samples: layers of one model, or several models.
        eps: added to the denominator, as in `cknna`.
    """
    if not rows or not columns:
        raise ValueError(f"rows and columns must not be empty, got {len(rows)} and {len(columns)} matrices")
    features = [checked_features(x, f"representation {i}") for i, x in enumerate([*rows, *columns])]
    for i, x in enumerate(features[1:], 1):
        as_pair(features[0], x, ("representation 0", f"representation {i}"))
    check_k(k, len(features[0]), least=2)
    near = [nearest_neighbours(x, k, normalize=normalize) for x in features]
    scores = [[cknna_of_neighbours(a, b, eps=eps) for b in near[len(rows) :]] for a in near[: len(rows)]]
    return torch.tensor(scores, dtype=torch.float64)


class SimilarityPoint(NamedTuple):
    """One model of a scatter plot."""

    name: str
    robust_accuracy: float
    score: float


def mutual_knn(a: Matrix, b: Matrix, k: int = 10, *, normalize: bool = True) -> float:
    """Computes the mean share of nearest neighbours that two representations have in common.

    Args:
        a: (n, d1) features, n >= 4.
        k: neighbours per sample, 1 to n - 1.
        normalize: scale rows to unit length first; False takes rows as they are.

    Returns:
        The share in [0, 1]; about k / (n - 1) by chance.

    Source: Huh et al. 2024, arXiv:2405.07987.
    """
    x, y = as_pair(checked_features(a, "a"), checked_features(b, "b"), ("a", "b"))
    check_k(k, len(x), least=1)
    near_a = nearest_neighbours(x, k, normalize=normalize)
    near_b = nearest_neighbours(y, k, normalize=normalize)
    return mutual_knn_of_neighbours(near_a, near_b)


def cka(a: Matrix, b: Matrix, *, unbiased: bool = False, eps: float = 1e-6, normalize: bool = False) -> float:
    """Computes linear centred kernel alignment without any n x n matrix, in float64.

    Args:
        a: (n, d1) features, n >= 4.
        unbiased: use the unbiased HSIC estimator. The biased one is inflated when d is not far below n:
            independent features with n = 200 and d = 40, 56 give 0.19 biased and 0.0008 unbiased.

    Returns:
        The score: in [0, 1] if biased; possibly slightly negative, or NaN where a self-HSIC is negative, if not.

    Source: Kornblith et al. 2019, arXiv:1905.00414; unbiased: Eq. 5 of Song et al. 2012.
    """
    x, y = as_pair(checked_features(a, "a"), checked_features(b, "b"), ("a", "b"))
    x, y = _centred(x, normalize), _centred(y, normalize)
    hsic = _linear_hsic_unbiased if unbiased else _squared_cross_product
    return _ratio(hsic(x, y), hsic(x, x), hsic(y, y), eps)


def cknna_of_neighbours(a: Neighbours, b: Neighbours, *, eps: float = 1e-6) -> float:
    """Computes CKNNA from two neighbour searches over the same samples with the same k; see `cknna`."""
    n = len(a.index)
    key_a, value_a = _edges(a)
    key_b, value_b = _edges(b)
    place, shared = _find(key_a, key_b)
    kl = _sparse_hsic(key_a[shared], value_a[shared], value_b[place[shared]], n)
    return _ratio(kl, _sparse_hsic(key_a, value_a, value_a, n), _sparse_hsic(key_b, value_b, value_b, n), eps)


def mutual_knn_of_neighbours(a: Neighbours, b: Neighbours) -> float:
    """Computes the share of common neighbours from two searches over the same samples with the same k."""
    shared = _find(_edges(a)[0], _edges(b)[0])[1]
    return float(shared.double().mean())


def checked_features(x: Matrix, name: str, clamp_quantile: float | None = None) -> Tensor:
    """Checked features, clamped where asked; refuses features that are the same for every sample."""
    features = as_matrix(x, name, rows=4).detach()
    if bool((features == features[0]).all()):
        raise ValueError(f"all rows of {name} are equal: a constant representation has no similarity structure")
    if clamp_quantile is None:
        return features
    if not 0 < clamp_quantile <= 1:
        raise ValueError(f"clamp_quantile must be in (0, 1] or None, got {clamp_quantile}")
    rank = min(int(clamp_quantile * features.numel()) + 1, features.numel())
    q = features.abs().flatten().kthvalue(rank).values
    return features.clamp(-q, q)


def check_k(k: int, n: int, *, least: int) -> None:
    """Refuses a number of neighbours that n samples do not have."""
    if not least <= k <= n - 1:
        raise ValueError(f"k must be from {least} to n - 1 = {n - 1} for n = {n} samples, got {k}")


def _edges(near: Neighbours) -> tuple[Tensor, Tensor]:
    """The directed edges i -> j as sorted keys i n + j, (n k,), and their similarities."""
    n = len(near.index)
    index, order = near.index.sort(dim=1)
    key = index + n * torch.arange(n, device=index.device).unsqueeze(1)
    return key.flatten(), near.similarity.gather(1, order).flatten()


def _find(wanted: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Where each wanted key would stand in the sorted keys, and whether it is there."""
    place = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
    return place, keys[place] == wanted


def _sparse_hsic(key: Tensor, p: Tensor, q: Tensor, n: int) -> float:
    """Unbiased HSIC of matrices P and Q with values p and q at the same off-diagonal places `key`.

    P and Q need not be symmetric, so the first term pairs P_ij with Q_ji.
    """
    i, j = key // n, key % n
    place, reciprocal = _find(j * n + i, key)
    trace = (p * q[place])[reciprocal].sum()
    column_p = p.new_zeros(n).index_add_(0, j, p)
    row_q = q.new_zeros(n).index_add_(0, i, q)
    return _hsic(trace, p.sum() * q.sum(), column_p @ row_q, n)


def _linear_hsic_unbiased(x: Tensor, y: Tensor) -> float:
    """Unbiased HSIC of the linear kernels of centred features, their diagonals removed."""
    n = len(x)
    self_x, self_y = x.square().sum(dim=1), y.square().sum(dim=1)
    row_x, row_y = x @ x.sum(dim=0) - self_x, y @ y.sum(dim=0) - self_y
    trace = (x.T @ y).square().sum() - self_x @ self_y
    return _hsic(trace, row_x.sum() * row_y.sum(), row_x @ row_y, n)


def _hsic(trace: Tensor, totals: Tensor, sums: Tensor, n: int) -> float:
    """Eq. 5 of Song et al. 2012 from its three parts."""
    value = trace + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * sums
    return float(value / (n * (n - 3)))


def _squared_cross_product(x: Tensor, y: Tensor) -> float:
    return float((x.T @ y).square().sum())


def _centred(x: Tensor, normalize: bool) -> Tensor:
    """A float64 copy with zero column means: HSIC does not change, its three terms stop cancelling."""
    centred = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    norm = row_norms(x) if normalize else None
    for rows in row_slices(len(x), row_block(x.shape[1])):
        centred[rows] = x[rows].double() if norm is None else x[rows].double() / norm[rows]
    return centred.sub_(column_mean(centred))


def _ratio(kl: float, kk: float, ll: float, eps: float) -> float:
    product = kk * ll
    if kk < 0 or ll < 0 or (product == 0 and eps == 0):
        return math.nan
    return kl / (math.sqrt(product) + eps)
