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

from rp_models.checkpoint import CheckpointError
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
    False. `mean` and `std` are what the network's images were normalised with, per channel; None for nothing.

    Raises:
        CheckpointError: if the file cannot be read or is no MAE.
    """
    content = read_torch_file(path, allow_namespace=True)
    state = find_weights(content, ("patch_embed.proj.weight",), "a masked autoencoder", path).state
    arguments = {**_encoder(state, heads, path), "mean": mean, "std": std}
    if "decoder_pred.weight" in state:
        arguments |= _decoder(state, decoder_heads, path)
        arguments["norm_pix"] = _predicts_standardised_patches(content, path) if norm_pix is None else norm_pix
        return Imported("mae", arguments, state)
    arguments["pool"] = "avg" if "fc_norm.weight" in state else "token"
    arguments["num_classes"] = len(state["head.weight"]) if "head.weight" in state else 0
    return Imported("vit", arguments, state)


def _encoder(state: Mapping[str, Tensor], heads: int | None, path: str | Path) -> dict[str, Any]:
    """The arguments that the encoder's shapes tell."""
    try:
        width, in_channels, patch_size, _ = state["patch_embed.proj.weight"].shape
        grid = isqrt(state["pos_embed"].shape[1] - 1)
        hidden = len(state["blocks.0.mlp.fc1.weight"])
    except KeyError as missing:
        raise CheckpointError(f"{path}: these are no weights of a masked autoencoder: there is no {missing}") from None
    return {
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "width": width,
        "depth": count_blocks(state, "blocks."),
        "heads": heads or _official_heads(width, "heads", path),
        "mlp_ratio": hidden / width,
    }


def _decoder(state: Mapping[str, Tensor], heads: int | None, path: str | Path) -> dict[str, Any]:
    """The arguments that the decoder's shapes tell."""
    width = len(state["decoder_embed.weight"])
    return {
        "decoder_width": width,
        "decoder_depth": count_blocks(state, "decoder_blocks."),
        "decoder_heads": heads or _official_heads(width, "decoder_heads", path),
    }


def _official_heads(width: int, argument: str, path: str | Path) -> int:
    """The heads of an official size; shapes do not tell them."""
    if width not in _HEADS:
        raise CheckpointError(f"{path}: no official size is {width} wide, and heads leave no trace; give {argument}=")
    return _HEADS[width]


def _predicts_standardised_patches(content: Mapping[str, Any], path: str | Path) -> bool:
    """What the training arguments say, else what the name of the file says."""
    training = content.get("args")
    if isinstance(training, argparse.Namespace) and hasattr(training, "norm_pix_loss"):
        return bool(training.norm_pix_loss)
    return Path(path).stem.endswith("_full")
