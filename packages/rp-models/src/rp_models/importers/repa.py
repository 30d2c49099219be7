"""The official files of REPA (Yu et al. 2025, arXiv:2410.06940).

| file | becomes |
|---|---|
| `last.pt` (SiT-XL/2 with REPA), a bare state dict | `sit` |
| one's own training checkpoints, with an `argparse.Namespace` | `sit` |

Old files name the blocks behind the projection `decoder_blocks`; they are counted on from `blocks`.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.importers.diffusion import Weights, described, official_heads, patch_arguments, transformer_state
from rp_models.importers.imported import Imported, count_blocks
from rp_models.importers.torch_file import read_torch_file


def read_repa(
    path: str | Path, *, weights: Weights = "ema", heads: int | None = None, encoder_depth: int | None = None
) -> Imported:
    """Read a SiT trained with REPA, its projectors included.

    `weights` is the average of the weights ("ema") or the weights ("model"). Heads that are None are those of the
    official size of that width. `encoder_depth` is the number of blocks before the projection; None to go by the file,
    else 8 as in the released model. Raises CheckpointError if the file cannot be read or is no SiT.
    """
    content = read_torch_file(path, allow_namespace=True)
    state = transformer_state(content, weights, "x_embedder.proj.weight", "sit", path)
    if encoder_depth is None:
        encoder_depth = _encoder_depth(content, state)
    state = {_current_key(key, encoder_depth): value for key, value in state.items()}
    return described("sit", lambda: _arguments(state, heads, encoder_depth), state, path)


def _encoder_depth(content: Mapping[str, Any], state: Mapping[str, Tensor]) -> int:
    if any(key.startswith("decoder_blocks.") for key in state):
        return count_blocks(state, "blocks.")
    training = content.get("args")
    if isinstance(training, argparse.Namespace) and hasattr(training, "encoder_depth"):
        return int(training.encoder_depth)
    return 8


def _current_key(key: str, encoder_depth: int) -> str:
    """The key of today's layout; an old file's `decoder_blocks.i` is block i + encoder_depth."""
    if not key.startswith("decoder_blocks."):
        return key
    _, index, rest = key.split(".", 2)
    return f"blocks.{int(index) + encoder_depth}.{rest}"


def _arguments(state: Mapping[str, Tensor], heads: int | None, encoder_depth: int) -> dict[str, Any]:
    """The arguments that the shapes tell."""
    patches = patch_arguments(state)
    projectors = [f"projectors.{index}." for index in range(count_blocks(state, "projectors."))]
    return {
        **patches,
        "depth": count_blocks(state, "blocks."),
        "heads": official_heads(patches["width"], heads),
        "mlp_ratio": len(state["blocks.0.mlp.fc1.weight"]) / patches["width"],
        "num_classes": len(state["y_embedder.embedding_table.weight"]) - 1,  # the last row is the null class
        "encoder_depth": encoder_depth,
        "target_widths": [len(state[f"{projector}4.weight"]) for projector in projectors],
        "projector_hidden": len(state[f"{projectors[0]}0.weight"]) if projectors else 2048,
    }
