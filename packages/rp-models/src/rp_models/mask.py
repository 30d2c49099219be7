"""Random masking of tokens, shared by MAE and MaskDiT: which tokens an encoder sees, and how the others come back.

Axes: b batch, n tokens, k kept tokens, d width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """Which tokens of each image are removed."""

    mask: Tensor  # float (b, n), 1 where a token is removed and 0 where it is kept
    ids_keep: Tensor  # int64 (b, k), the kept tokens in the order in which the encoder gets them (shuffled, not sorted)
    ids_restore: Tensor  # int64 (b, n), position of each token in the sequence "kept tokens, then removed tokens"


def kept_tokens(tokens: int, mask_rate: float) -> int:
    """How many of n tokens a mask keeps: n (1 - mask_rate), rounded down.

    10 tokens at a rate of 0.8 keep 2. Public code writes `int(10 * (1 - 0.8))` and keeps 1, since 1 - 0.8 is a little
    less than 0.2 in floating point; for the published sizes and rates both are the same. Raises ValueError if the rate
    is outside [0, 1), or no token would be kept.
    """
    if not 0.0 <= mask_rate < 1.0:
        raise ValueError(f"the mask rate is the share of removed tokens and must be in [0, 1), got {mask_rate}")
    kept = int(round(tokens * (1 - mask_rate), 6))
    if kept == 0:
        raise ValueError(f"a mask rate of {mask_rate} keeps none of {tokens} tokens; lower it")
    return kept


def random_mask(noise: Tensor, mask_rate: float) -> Mask:
    """The mask that keeps, in each image, the `kept_tokens(n, mask_rate)` tokens with the smallest noise.

    `noise` (b, n), one draw per token, e.g. uniform in [0, 1), is the only source of randomness; `mask` has its dtype
    and device. Raises ValueError if `noise` is not (b, n), the rate is outside [0, 1), or no token would be kept.
    Source: "random masking" of He et al. 2022, arXiv:2111.06377, section 3.
    """
    if noise.dim() != 2:
        raise ValueError(f"noise must be (batch, tokens), got {tuple(noise.shape)}")
    kept = kept_tokens(noise.shape[1], mask_rate)
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    return Mask((ids_restore >= kept).to(noise.dtype), ids_shuffle[:, :kept], ids_restore)


def complement(mask: Mask) -> Mask:
    """The mask that removes what `mask` keeps and keeps what it removes.

    Raises ValueError if `mask` removes nothing, since its complement would keep nothing.
    """
    tokens, kept = mask.ids_restore.shape[1], mask.ids_keep.shape[1]
    if kept == tokens:
        raise ValueError("the mask removes no token, so its complement would keep none")
    ids_restore = (mask.ids_restore - kept) % tokens  # the removed tokens move to the front, in their order
    ids_keep = ids_restore.argsort(dim=1)[:, : tokens - kept]
    return Mask(1 - mask.mask, ids_keep, ids_restore)


def keep_tokens(x: Tensor, mask: Mask) -> Tensor:
    """The kept tokens (b, k, d) of all tokens (b, n, d), in the order of `mask.ids_keep`.

    Raises ValueError if the mask was made for another number of images or tokens.
    """
    if mask.ids_restore.shape != x.shape[:2]:
        raise ValueError(
            f"the mask is for (batch, tokens) = {tuple(mask.ids_restore.shape)}, "
            f"but there are {tuple(x.shape[:2])}; draw one row of noise per image and one value per token"
        )
    return x.gather(1, mask.ids_keep[:, :, None].expand(-1, -1, x.shape[2]))


def restore_tokens(kept: Tensor, mask: Mask, mask_token: Tensor) -> Tensor:
    """All tokens (b, n, d) in image order: the kept ones (b, k, d) at their places, the mask token elsewhere."""
    b, tokens = mask.ids_restore.shape
    filler = mask_token.to(kept.dtype).expand(b, tokens - kept.shape[1], -1)
    sequence = torch.cat([kept, filler], dim=1)
    return sequence.gather(1, mask.ids_restore[:, :, None].expand(-1, -1, kept.shape[2]))
