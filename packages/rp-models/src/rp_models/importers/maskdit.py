"""The official files of MaskDiT (Zheng et al. 2023, arXiv:2306.09305).

| file | becomes |
|---|---|
| `imagenet256-ckpt-best_{with,without}_guidance.pt`, `2000000.pt` | `maskdit`, XL/2 |
| `1080000.pt`, `1050000.pt` (512 px) | `maskdit` with `image_size=64` |

They are training checkpoints: weights, their average, optimizer, and an `argparse.Namespace`. The autoencoder that they
were trained on, `autoencoder_kl.pth`, is read by `importers.vae`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.importers.diffusion import Weights, described, official_heads, patch_arguments, transformer_state
from rp_models.importers.imported import Imported, count_blocks
from rp_models.importers.torch_file import read_torch_file


def read_maskdit(
    path: str | Path,
    *,
    weights: Weights = "ema",
    heads: int | None = None,
    decoder_heads: int | None = None,
    sigma_data: float = 0.5,
) -> Imported:
    """Read a file of MaskDiT, or of one's own training with its public code, for `maskdit`.

    `weights` is the average of the weights ("ema") or the weights ("model"); heads that are None are those of the
    official size of that width, 512 for the decoder; `sigma_data` is the standard deviation of the training data.
    Raises CheckpointError if the file cannot be read or is no MaskDiT.
    """
    content = read_torch_file(path, allow_namespace=True)
    state = transformer_state(content, weights, "model.x_embedder.proj.weight", "maskdit", path)

    def describe() -> dict[str, Any]:
        return {**_arguments(state, heads, decoder_heads), "sigma_data": sigma_data}

    return described("maskdit", describe, state, path)


def _arguments(state: Mapping[str, Tensor], heads: int | None, decoder_heads: int | None) -> dict[str, Any]:
    """The arguments that the shapes tell."""
    patches = patch_arguments(state, "model.")
    decoder_width = state["model.decoder_pos_embed"].shape[2]
    classes = state.get("model.y_embedder.embedding_table.weight")
    return {
        **patches,
        "depth": count_blocks(state, "model.blocks."),
        "heads": official_heads(patches["width"], heads),
        "decoder_width": decoder_width,
        "decoder_depth": count_blocks(state, "model.decoder_blocks."),
        "decoder_heads": official_heads(decoder_width, decoder_heads, "decoder_heads"),
        "mlp_ratio": len(state["model.blocks.0.mlp.fc1.weight"]) / patches["width"],
        "num_classes": 0 if classes is None else classes.shape[1],
        "mask_token": "model.mask_token" in state,
    }
