"""How many principal components of a representation its classification head needs."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .arrays import Matrix, as_matrix, column_mean, row_block, row_slices

Variant = Literal["recentred", "uncentred", "centred"]


class PrincipalComponents(NamedTuple):
    """Mean (d,), variances (d,) in descending order and directions (d, d) as columns; float64."""

    mean: Tensor
    variance: Tensor
    directions: Tensor


@dataclass(frozen=True)
class ClassificationDimension:
    """Accuracies of the head on features projected to K = 0..d components, and the dimensions read from them.

    Attributes:
        robust_range: smallest and largest K >= 1 whose adversarial accuracy is within one standard error of the
            highest: curves are flat at their peak, so a single argmax says little.
    """

    variant: Variant  # how features were projected
    clean: Tensor  # (d + 1,) accuracy on clean features, entry K for K components
    adversarial: Tensor | None  # (d + 1,) accuracy on adversarial features, or None
    full_clean: float  # accuracy without projection
    full_adversarial: float | None  # adversarial accuracy without projection, or None
    cls95: int | None  # smallest K with at least 95 % of `full_clean`; None if no K has
    cls99: int | None  # the same for 99 %
    robust: int | None  # smallest K >= 1 with the highest adversarial accuracy, or None
    robust_range: tuple[int, int] | None


def principal_components(features: Matrix) -> PrincipalComponents:
    """Computes all principal components of features (n, d), n >= 2, with the covariance divided by n.

    Two passes in float64 blocks, O(d^2) memory; the singular values of the centred matrix where n < d.
    """
    x = as_matrix(features, "features", rows=2)
    mean = column_mean(x)
    n, d = x.shape
    if n < d:
        _, singular, directions = torch.linalg.svd(x.double() - mean, full_matrices=True)
        variance = singular.new_zeros(d)
        variance[:n] = singular.square() / n
        return PrincipalComponents(mean, variance, directions.T)
    covariance = mean.new_zeros(d, d)
    for rows in x.split(row_block(d)):
        centred = rows.double() - mean
        covariance.addmm_(centred.T, centred, alpha=1 / n)
    variance, directions = torch.linalg.eigh(covariance)
    return PrincipalComponents(mean, variance.flip(0).clamp_min(0), directions.flip(1))


def component_accuracy(
    features: Matrix,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    components: PrincipalComponents,
    *,
    variant: Variant = "recentred",
) -> Tensor:
    """Computes the accuracy of a linear head on features projected to K principal components, for every K.

    One pass: logits grow by one rank-one term per component, so that their cumulative sum holds all K at once, at
    O(n d c) for the whole curve.

    Args:
        components: of the clean features, V = the first K directions.
        variant: "recentred" mean + (x - mean) V V^T; "uncentred" x V V^T, as the public code of Feng et al. does;
            "centred" (x - mean) V V^T, with the mean left out, which does not recover the full accuracy.

    Returns:
        (d + 1,) float64 accuracies, entry K for K components.
    """
    x = as_matrix(features, "features")
    _check_head(x, labels, weight, bias)
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
    mean, _, directions = components
    weight = weight.detach().double()
    base = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
    if variant == "recentred":
        base = base + weight @ mean
    response = (weight @ directions).T  # (d, c): what one unit along each direction adds to the logits
    correct = torch.zeros(x.shape[1] + 1, dtype=torch.float64, device=x.device)
    for rows in row_slices(len(x), row_block(response.numel())):
        block = x[rows].double()
        coefficient = (block if variant == "uncentred" else block - mean) @ directions
        logits = (coefficient.unsqueeze(2) * response).cumsum_(dim=1).add_(base)  # b d c
        correct[1:] += (logits.argmax(dim=2) == labels[rows].unsqueeze(1)).sum(dim=0)
        correct[0] += (base.argmax() == labels[rows]).sum()
    return correct / len(x)


def classification_dimension(
    features: Matrix,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    adversarial: Matrix | None = None,
    components: PrincipalComponents | None = None,
    variant: Variant = "recentred",
) -> ClassificationDimension:
    """Computes CLS-95, CLS-99 and, given adversarial features, the robust-aware dimension.

    The adversarial features belong to images attacked once, against the full model; the attack does not know of the
    projection, so the adversarial curve is not the robust accuracy of a projected model.

    Args:
        features: (n, d) penultimate features of clean images.
        adversarial: (n, d) features of the adversarial images made from them, in the same order.
        components: directions to project on; None takes those of `features`.

    Source: Feng et al. 2022, arXiv:2206.06072; robust-aware: section 5.5 of the DRA paper.
    """
    x = as_matrix(features, "features", rows=2)
    if components is None:
        components = principal_components(x)
    clean = component_accuracy(x, labels, weight, bias, components, variant=variant)
    full = _accuracy(x, labels, weight, bias)
    cls95, cls99 = (_first(clean >= ratio * full - 1e-12) for ratio in (0.95, 0.99))
    if adversarial is None:
        return ClassificationDimension(variant, clean, None, full, None, cls95, cls99, None, None)
    x_adv = as_matrix(adversarial, "adversarial")
    attacked = component_accuracy(x_adv, labels, weight, bias, components, variant=variant)
    peak = float(attacked[1:].max())
    error = math.sqrt(peak * (1 - peak) / len(x_adv))
    near = (attacked[1:] >= peak - error - 1e-12).nonzero().squeeze(1) + 1
    robust = int(attacked[1:].argmax()) + 1
    around = (int(near.min()), int(near.max()))
    full_adv = _accuracy(x_adv, labels, weight, bias)
    return ClassificationDimension(variant, clean, attacked, full, full_adv, cls95, cls99, robust, around)


def _first(mask: Tensor) -> int | None:
    found = mask.nonzero()
    return int(found[0]) if len(found) else None


def _accuracy(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    """Accuracy of the head on features as they are."""
    offset = 0.0 if bias is None else bias.detach().double()
    blocks = row_slices(len(x), row_block(x.shape[1]))
    right = sum(
        int(((x[rows].double() @ weight.detach().double().T + offset).argmax(1) == labels[rows]).sum())
        for rows in blocks
    )
    return right / len(x)


def _check_head(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if labels.shape != (len(x),) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(x)},), got {labels.dtype} of {tuple(labels.shape)}")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"weight must be (classes, {x.shape[1]}) for these features, got {tuple(weight.shape)}; "
            "pass the features that enter the classification head"
        )
    if bias is not None and bias.shape != (len(weight),):
        raise ValueError(f"bias must be of shape ({len(weight)},), got {tuple(bias.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(weight):
        raise ValueError(f"labels must lie in [0, {len(weight) - 1}], got {int(labels.min())}..{int(labels.max())}")
