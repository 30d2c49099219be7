"""The constants of Theorem 3.2, which its paper uses and never names, estimated on a masked autoencoder.

Axes: b images, t layers, n tokens.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", Appendix K.1 and K.3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from rp_models.mask import Mask
from rp_models.networks.mae import MaskedAutoencoder
from torch import Tensor


class InequalityConstants(NamedTuple):
    """Each constant for each image (b,); `h` and `c_a` are NaN where the attention did not change."""

    h: Tensor  # squared variation of the joined attention over the mean of the layers'
    c_a: Tensor  # squared change of the interpolated patches over the squared variation of the joined attention
    c_rec: Tensor  # squared error of the reconstruction of the clean image


@torch.no_grad()
def inequality_constants(
    mae: MaskedAutoencoder, clean: Tensor, attacked: Tensor, mask: Mask, *, batch_size: int = 64
) -> InequalityConstants:
    """Estimates H, C_A and c_rec of Theorem 3.2 image by image, in the units of the autoencoder's loss.

    The proof writes the decoder as A V, attention that interpolates the encoder's output. Here A is the layers' joined
    attention (rollout: the product of (A_t + I) / 2, heads averaged), and V the decoder's input tokens of the attacked
    image, mapped to pixels by the prediction layer. H compares |A' - A|^2 with the mean over layers of the squared
    variation of each head's attention, C_A the mean square over hidden pixels of (A' - A) V with |A' - A|^2. c_rec is
    the "disparity between the output of MAE and the original image": the clean loss.

    Args:
        clean: images (b, c, h, w) in [0, 1].
        attacked: images of the same shape.
        mask: of all b images.

    Source: Assumptions 1 and 2 and the proof in Appendix K; the rollout is Abnar & Zuidema 2020, arXiv:2005.00928,
    which the paper leaves open.
    """
    parts = []
    for rows in torch.arange(len(clean), device=clean.device).split(batch_size):
        parts.append(_of_batch(mae, clean[rows], attacked[rows], Mask(*(values[rows] for values in mask))))
    return InequalityConstants(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def joined_attention(layers: Sequence[Tensor]) -> Tensor:
    """The rollout (b, n, n) of attention weights (b, h, n, n) a layer, the first layer first; rows sum to 1."""
    first = layers[0]
    identity = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
    joined = identity.expand(len(first), -1, -1)
    for weights in layers:
        joined = (weights.mean(dim=1) + identity) / 2 @ joined
    return joined


def _of_batch(mae: MaskedAutoencoder, clean: Tensor, attacked: Tensor, mask: Mask) -> InequalityConstants:
    before, after = (mae.attention_maps(x, mask, part="decoder") for x in (clean, attacked))
    layers = torch.stack([_squared(b - a).mean(dim=1) for a, b in zip(before, after, strict=True)], dim=1)
    change = joined_attention(after) - joined_attention(before)
    moved = (change @ mae.decoder_pred(mae.decoder_norm(mae.decoder_tokens(attacked, mask))))[:, 1:]
    hidden = (moved.square().mean(dim=-1) * mask.mask).sum(dim=1) / mask.mask.sum(dim=1)
    joined = _squared(change)
    return InequalityConstants(joined / layers.mean(dim=1), hidden / joined, mae.loss(clean, mask))


def _squared(matrices: Tensor) -> Tensor:
    """Squared Frobenius norms."""
    return torch.linalg.matrix_norm(matrices).square()
