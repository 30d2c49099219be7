"""The official files of the KL autoencoders (Rombach et al. 2022, arXiv:2112.10752; Yao et al. 2025, arXiv:2501.01423).

| file | becomes |
|---|---|
| `vavae-imagenet256-f16d32-dinov2.pt` | `autoencoder-kl`, as `vavae-f16d32` |
| `autoencoder_kl.pth` of MaskDiT | `autoencoder-kl`, as `sdvae-f8d4` |
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.importers.diffusion import described
from rp_models.importers.imported import Imported, count_blocks
from rp_models.importers.torch_file import read_torch_file
from rp_models.importers.weights import find_weights

_TRAINING_ONLY = ("loss.", "foundation_model.", "linear_proj.")  # discriminator, DINOv2 and its projection


def read_vae(path: str | Path) -> Imported:
    """Read VA-VAE or SD-VAE, for `autoencoder-kl`; what only training needs is left out.

    Raises CheckpointError if the file cannot be read or is no such autoencoder.
    """
    state = find_weights(read_torch_file(path), ("encoder.conv_in.weight",), "'autoencoder-kl'", path).state
    kept = {key: value for key, value in state.items() if not key.startswith(_TRAINING_ONLY)}
    return described("autoencoder-kl", lambda: _arguments(kept), kept, path)


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments that the shapes tell."""
    width, in_channels, _, _ = state["encoder.conv_in.weight"].shape
    levels = range(count_blocks(state, "encoder.down."))
    return {
        "in_channels": in_channels,
        "width": width,
        "multipliers": [len(state[f"encoder.down.{level}.block.0.conv1.weight"]) // width for level in levels],
        "blocks": count_blocks(state, "encoder.down.0.block."),
        "attention": [f"encoder.down.{level}.attn.0.norm.weight" in state for level in levels],
        "z_channels": len(state["encoder.conv_out.weight"]) // 2,
        "embed_channels": len(state["quant_conv.weight"]) // 2,
    }
