"""What transformers' files have in common: an average beside the weights, sizes, and heads that leave no trace."""

from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from rp_models.checkpoint import CheckpointError
from rp_models.importers.imported import Imported
from rp_models.importers.weights import PLACES, find_weights

Weights = Literal["ema", "model"]

_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 512: 16}  # DiT's sizes S, B, L, XL, H; MaskDiT's decoder


def transformer_state(
    content: Mapping[str, Any], weights: Weights, anchor: str, architecture: str, path: str | Path
) -> dict[str, Tensor]:
    """The state dict in a training checkpoint, or the file itself if it is one; keys without prefixes.

    `weights` is "ema" for the average of the weights, which all published figures use, or "model"; `anchor` is a key of
    every such network. Raises CheckpointError if a training checkpoint lacks the asked-for weights, or entries are no
    tensors.
    """
    if "ema" in content or "model" in content:
        if weights not in content:
            raise CheckpointError(f"{path}: the file holds no {weights!r} weights, only {sorted(content)}")
        state = content[weights]
        if not isinstance(state, Mapping):
            raise CheckpointError(f"{path}: expected a state dict under {weights!r}, found a {type(state).__name__}")
        content = state
    places = (weights, *(place for place in PLACES if place != "model"))
    return find_weights(content, (anchor,), repr(architecture), path, places=places).state


def patch_arguments(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """Image size, patch size, channels and width, from the shapes of patch embedding and position table."""
    width, in_channels, patch_size, _ = state[f"{prefix}x_embedder.proj.weight"].shape
    grid = isqrt(state[f"{prefix}pos_embed"].shape[1])
    return {"image_size": grid * patch_size, "patch_size": patch_size, "in_channels": in_channels, "width": width}


def official_heads(width: int, heads: int | None, argument: str = "heads", known: Mapping[int, int] = _HEADS) -> int:
    """The given heads, else those of the official size of that width, since shapes do not tell them.

    Raises CheckpointError if there is no official size of that width.
    """
    if heads is not None:
        return heads
    if width not in known:
        raise CheckpointError(f"no official size is {width} wide, and the heads leave no trace; give {argument}=")
    return known[width]


def described(
    architecture: str, describe: Callable[[], dict[str, Any]], state: dict[str, Tensor], path: str | Path
) -> Imported:
    """The imported network whose arguments `describe` reads off the state's shapes.

    Raises CheckpointError if the state lacks a key, or has a shape, that the architecture needs.
    """
    try:
        return Imported(architecture, describe(), state)
    except KeyError as missing:
        raise CheckpointError(f"{path}: these are no weights of {architecture!r}, there is no {missing}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path}: these are no weights of {architecture!r}, a shape does not fit ({error})"
        ) from None
