"""Which visible patches a masked autoencoder attends to when it reconstructs one hidden patch, and how far that moves.

Axes: b images, h heads, n patches.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", Fig. 2 and 8.
"""

import torch
from rp_models.mask import Mask
from torch import Tensor


def central_target(mask: Mask) -> Tensor:
    """The hidden patch nearest to the middle of each image, int64 (b,); of several the first, row by row."""
    tokens = mask.mask.shape[1]
    grid = round(tokens**0.5)
    patch = torch.arange(tokens, device=mask.mask.device)
    distance = sum((place - (grid - 1) / 2).square() for place in (patch // grid, patch % grid))
    return torch.where(mask.mask == 1, distance, torch.inf).argmin(dim=1)


def target_attention(attention: Tensor, mask: Mask, patch: int | Tensor) -> Tensor:
    """How much each visible patch matters for the reconstruction of one hidden patch (the paper's Fig. 2 and 8).

    Args:
        attention: an MAE decoder layer's weights (b, h, 1 + n, 1 + n), usually the last layer's.
        patch: number of the target patch, row by row from 0, hidden: one for all images or int64 (b,).

    Returns:
        Tensor (b, n) in image order, averaged over heads, NaN at hidden patches. Compare pictures on one colour scale.
    """
    count, tokens = mask.mask.shape
    if attention.shape[-1] != tokens + 1:
        raise ValueError(
            f"expected attention over a class token and {tokens} patches, got {attention.shape[-1]} tokens"
        )
    rows, target = torch.arange(count, device=attention.device), torch.as_tensor(patch, device=attention.device)
    target = target.expand(count)
    if not bool(((target >= 0) & (target < tokens)).all()) or not bool((mask.mask[rows, target] == 1).all()):
        raise ValueError(f"the target must be a hidden patch in 0..{tokens - 1}, got {patch}")
    weights = attention.mean(dim=1)[rows, 1 + target, 1:]
    return weights.masked_fill(mask.mask == 1, torch.nan)


def moved_attention(weights: Tensor, other: Tensor) -> Tensor:
    """The share of a target's attention to visible patches that lies elsewhere: their total variation distance.

    Args:
        weights: (b, n) of `target_attention`, NaN at hidden patches.
        other: the same of attacked or purified images, same masks and targets.

    Returns:
        Tensor (b,) in [0, 1].
    """
    before, after = (part.nan_to_num(0.0) / part.nansum(dim=1, keepdim=True) for part in (weights, other))
    return (after - before).abs().sum(dim=1) / 2
