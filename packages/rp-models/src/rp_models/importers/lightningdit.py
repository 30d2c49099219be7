"""The official files of LightningDiT (Yao et al. 2025, arXiv:2501.01423).

| file | becomes |
|---|---|
| `lightningdit-xl-imagenet256-{64,800}ep.pt` | `lightningdit`, XL/1 |
| `latents_stats.pt` | `latent-normalization`, between VA-VAE and LightningDiT |
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.checkpoint import CheckpointError
from rp_models.importers.diffusion import Weights, described, official_heads, patch_arguments, transformer_state
from rp_models.importers.imported import Imported, count_blocks
from rp_models.importers.torch_file import only_tensors, read_torch_file


def read_lightningdit(path: str | Path, *, weights: Weights = "ema", heads: int | None = None) -> Imported:
    """Read a file of LightningDiT, released or of one's own training; all flags are read off the shapes.

    Raises CheckpointError if the file cannot be read or is no LightningDiT. `weights`: the average of the weights
    ("ema") or the weights ("model"). `heads`: attention heads; None to go by the rotary table, else by the official
    size of that width.
    """
    state = transformer_state(read_torch_file(path), weights, "x_embedder.proj.weight", "lightningdit", path)
    return described("lightningdit", lambda: _arguments(state, heads), state, path)


def read_latent_statistics(path: str | Path, *, multiplier: float = 1.0) -> Imported:
    """Read `latents_stats.pt`, mean and standard deviation of the training latents per channel.

    `multiplier` is on the normalised latents, 1.0 for the released models. Raises CheckpointError if the file cannot be
    read or holds something else.
    """
    state = only_tensors(read_torch_file(path), path)
    if state.keys() != {"mean", "std"}:
        raise CheckpointError(f"{path}: expected the entries mean and std, found {sorted(state)[:5]}")
    arguments = {"channels": state["mean"].numel(), "multiplier": multiplier}
    return Imported("latent-normalization", arguments, {key: value.float() for key, value in state.items()})


def _arguments(state: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    """The arguments that the shapes tell."""
    patches = patch_arguments(state)
    width = patches["width"]
    rope = state.get("feat_rope.freqs_cos")
    if rope is not None and heads is None:
        heads = width // rope.shape[1]
    swiglu = "blocks.0.mlp.w12.weight" in state
    hidden = 1.5 * state["blocks.0.mlp.w3.weight"].shape[1] if swiglu else len(state["blocks.0.mlp.fc1.weight"])
    outputs = len(state["final_layer.linear.weight"])
    return {
        **patches,
        "depth": count_blocks(state, "blocks."),
        "heads": official_heads(width, heads),
        "mlp_ratio": hidden / width,
        "num_classes": len(state["y_embedder.embedding_table.weight"]) - 1,  # the last row is the null class
        "learn_sigma": outputs == 2 * patches["patch_size"] ** 2 * patches["in_channels"],
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "swiglu": swiglu,
        "rope": rope is not None,
        "rms_norm": "blocks.0.norm1.weight" in state,
        "shift": len(state["blocks.0.adaLN_modulation.1.weight"]) == 6 * width,
    }
