"""The official files of masked autoencoders (He et al. 2022, arXiv:2111.06377).

| family | file | becomes |
|---|---|---|
| visualize | `mae_visualize_vit_{base,large,huge}.pth`, `..._ganloss.pth` | `mae` that predicts pixels |
| full | `mae_pretrain_vit_{base,large,huge}_full.pth` | `mae` that predicts standardised patches (`norm_pix`) |
| pretrain | `mae_pretrain_vit_{base,large,huge}.pth` | `vit` without a head |
| finetune | `mae_finetuned_vit_{base,large,huge}.pth` | `vit` with its head, pooled as it was tuned |

Files of one's own training with the public code (`checkpoint-N.pth`) are read too.
"""

import argparse
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.importers.diffusion import described, official_heads
from rp_models.importers.imported import Imported, count_blocks
from rp_models.importers.torch_file import read_torch_file
from rp_models.importers.weights import find_weights
from rp_models.networks.normalization import IMAGENET

_HEADS = {768: 12, 1024: 16, 1280: 16, 512: 16}  # by width; the last is the decoder's


def read_mae(
    path: str | Path,
    *,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_pix: bool | None = None,
    mean: Sequence[float] | None = IMAGENET.mean,
    std: Sequence[float] | None = IMAGENET.std,
) -> Imported:
    """Read an official MAE file, for `mae` or `vit`.

    Heads that are None are those of the official size of that width. `norm_pix`, whether the decoder predicts
    standardised patches, goes by the training arguments in the file, else by its name (`..._full.pth` does), else it is
    False. `mean` and `std` are what the network's images were normalised with, per channel; None for nothing. Raises
    CheckpointError if the file cannot be read or is no MAE.
    """
    content = read_torch_file(path, allow_namespace=True)
    state = find_weights(content, ("patch_embed.proj.weight",), "a masked autoencoder", path).state
    normalised: dict[str, Any] = {"mean": mean, "std": std}
    if "decoder_pred.weight" not in state:
        return described("vit", lambda: {**_encoder(state, heads), **_head(state), **normalised}, state, path)
    normalised["norm_pix"] = _predicts_standardised_patches(content, path) if norm_pix is None else norm_pix
    return described(
        "mae", lambda: {**_encoder(state, heads), **_decoder(state, decoder_heads), **normalised}, state, path
    )


def _encoder(state: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    """The arguments that the encoder's shapes tell."""
    width, in_channels, patch_size, _ = state["patch_embed.proj.weight"].shape
    return {
        "image_size": isqrt(state["pos_embed"].shape[1] - 1) * patch_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "width": width,
        "depth": count_blocks(state, "blocks."),
        "heads": official_heads(width, heads, "heads", _HEADS),
        "mlp_ratio": len(state["blocks.0.mlp.fc1.weight"]) / width,
    }


def _head(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the keys tell of a classifier's pooling and head."""
    classes = len(state["head.weight"]) if "head.weight" in state else 0
    return {"pool": "avg" if "fc_norm.weight" in state else "token", "num_classes": classes}


def _decoder(state: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    """The arguments that the decoder's shapes tell."""
    width = len(state["decoder_embed.weight"])
    return {
        "decoder_width": width,
        "decoder_depth": count_blocks(state, "decoder_blocks."),
        "decoder_heads": official_heads(width, heads, "decoder_heads", _HEADS),
    }


def _predicts_standardised_patches(content: Mapping[str, Any], path: str | Path) -> bool:
    """What the training arguments say, else what the name of the file says."""
    training = content.get("args")
    if isinstance(training, argparse.Namespace) and hasattr(training, "norm_pix_loss"):
        return bool(training.norm_pix_loss)
    return Path(path).stem.endswith("_full")
