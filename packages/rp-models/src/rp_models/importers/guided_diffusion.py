"""The files of guided-diffusion's U-Nets (Dhariwal and Nichol 2021, arXiv:2105.05233).

| file | becomes |
|---|---|
| `256x256_diffusion_uncond.pt` | `discrete-vp-precond`, as `guided-diffusion-256-uncond` |
| other sizes and class-conditional ones (`64x64_diffusion.pt`, ...) with `resblock_updown` | `discrete-vp-precond` |

They are bare state dicts. The twin, `DhariwalUNet`, has one head for every 64 channels and at least four channels in a
group of its norms, so files narrower than 128 channels would compute something else and are refused.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.checkpoint import CheckpointError
from rp_models.diffusion.vp_schedule import BetaSchedule
from rp_models.importers.diffusion import described
from rp_models.importers.imported import Imported, averaging_filters, count_blocks, expected_state
from rp_models.importers.torch_file import read_torch_file
from rp_models.importers.weights import find_weights

_HEAD = 64
_LAYERS = {
    "in_layers.0": "norm0",
    "in_layers.2": "conv0",
    "emb_layers.1": "affine",
    "out_layers.0": "norm1",
    "out_layers.3": "conv1",
    "skip_connection": "skip",
    "norm": "norm2",
    "qkv": "qkv",
    "proj_out": "proj",
}
_OUTSIDE = {"time_embed.0": "map_layer0", "time_embed.2": "map_layer1", "out.0": "out_norm", "out.2": "out_conv"}


def read_guided_diffusion(
    path: str | Path,
    *,
    img_resolution: int = 256,
    noise_schedule: BetaSchedule = "linear",
    steps: int = 1000,
    use_fp16: bool = True,
) -> Imported:
    """Read a U-Net of guided-diffusion, for `discrete-vp-precond`.

    Args:
        img_resolution: of the images; no shape tells it.
        noise_schedule: of the betas, "linear" or "cosine"; no shape tells it.
        steps: number of time steps of training, 1,000 in the released models.
        use_fp16: compute in half precision on CUDA devices, as the public scripts do.

    Raises:
        CheckpointError: if the file cannot be read, or holds another architecture.
    """
    content = read_torch_file(path)
    state = find_weights(content, ("time_embed.0.weight",), "a U-Net of guided-diffusion", path).state
    own: dict[str, Any] = {"noise_schedule": noise_schedule, "M": steps, "use_fp16": use_fp16}

    def describe() -> dict[str, Any]:
        return {**_arguments(state, img_resolution), **own}

    imported = described("discrete-vp-precond", describe, {}, path)
    try:
        stages = [img_resolution >> level for level in range(len(imported.arguments["channel_mult"]))]
        names = dict(_modules(state, stages, imported.arguments["num_blocks"]))
        filters = averaging_filters(expected_state(imported.architecture, imported.arguments))
        return imported._replace(state={**dict(_renamed(state, names)), **filters})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _arguments(state: Mapping[str, Tensor], img_resolution: int) -> dict[str, Any]:
    """The constructor's arguments that keys and shapes tell."""
    width, channels = state["input_blocks.0.0.weight"].shape[:2]
    _check_options(state, width)
    entries = count_blocks(state, "output_blocks.")
    ups = [j for j in range(entries) if _residual(state, f"output_blocks.{j}.") > 1]
    blocks = entries // (len(ups) + 1) - 1
    first = [1 + level * (blocks + 1) for level in range(len(ups) + 1)]
    attends = [f"input_blocks.{index}.1.qkv.weight" in state for index in first]
    return {
        "img_resolution": img_resolution,
        "img_channels": channels,
        "label_dim": state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0,
        "learn_sigma": len(state["out.2.bias"]) == 2 * channels,
        "model_type": "DhariwalUNet",
        "model_channels": width,
        "channel_mult": [len(state[f"input_blocks.{index}.0.out_layers.3.bias"]) // width for index in first],
        "num_blocks": blocks,
        "attn_resolutions": [img_resolution >> level for level, does in enumerate(attends) if does],
        "dropout": 0.0,
    }


def _check_options(state: Mapping[str, Tensor], width: int) -> None:
    """Refuse the variants that the twin does not compute."""
    if any(key.endswith((".op.weight", ".conv.weight")) for key in state):
        raise CheckpointError("resampled by convolutions (resblock_updown=False), which DhariwalUNet does not do")
    if len(state["input_blocks.1.0.emb_layers.1.bias"]) != 2 * len(state["input_blocks.1.0.out_layers.3.bias"]):
        raise CheckpointError("the embedding only shifts (use_scale_shift_norm=False), in DhariwalUNet it also scales")
    if width < 128:
        raise CheckpointError(f"{width} channels wide; below 128 the norms of DhariwalUNet have other groups")


def _residual(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many residual blocks an entry of the list of blocks has."""
    return sum(key.startswith(prefix) and key.endswith("in_layers.0.weight") for key in state)


def _modules(state: Mapping[str, Tensor], stages: list[int], blocks: int) -> Iterator[tuple[str, str]]:
    """The file's name of each module, with the twin's."""
    yield "input_blocks.0.0", f"enc.{stages[0]}x{stages[0]}_conv"
    index = 1
    for level, size in enumerate(stages):
        for name in ["down"] * (level > 0) + [f"block{number}" for number in range(blocks)]:
            yield f"input_blocks.{index}.0", f"enc.{size}x{size}_{name}"
            yield f"input_blocks.{index}.1", f"enc.{size}x{size}_{name}"
            index += 1
    lowest = f"dec.{stages[-1]}x{stages[-1]}"
    yield from (("middle_block.0", f"{lowest}_in0"), ("middle_block.1", f"{lowest}_in0"))
    yield "middle_block.2", f"{lowest}_in1"
    index = 0
    for level, size in reversed(list(enumerate(stages))):
        for number in range(blocks + 1):
            yield f"output_blocks.{index}.0", f"dec.{size}x{size}_block{number}"
            attends = f"output_blocks.{index}.1.qkv.weight" in state
            if attends:
                yield f"output_blocks.{index}.1", f"dec.{size}x{size}_block{number}"
            if number == blocks and level > 0:
                yield f"output_blocks.{index}.{1 + attends}", f"dec.{2 * size}x{2 * size}_up"
            index += 1


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The weights under the twin's names and in its shapes."""
    for key, value in state.items():
        layer, _, end = key.rpartition(".")
        if layer == "label_emb":
            yield "model.map_label.weight", value.T
            continue
        if layer in _OUTSIDE:
            yield f"model.{_OUTSIDE[layer]}.{end}", value
            continue
        found = re.fullmatch(r"(\w+_blocks?\.\d+(?:\.\d+)?)(?:\.(.+))?", layer)
        place = names.get(found[1]) if found else None
        inner = found[2] if found else None
        if place is None or (inner is not None and inner not in _LAYERS):
            raise CheckpointError(f"these are no weights of guided-diffusion's U-Net, which has no {key}")
        if inner == "qkv":
            value = _interleaved(value)
        if inner in ("qkv", "proj_out") and end == "weight":
            value = value[:, :, :, None]
        yield ".".join(part for part in ("model", place, _LAYERS[inner] if inner else "", end) if part), value


def _interleaved(value: Tensor) -> Tensor:
    """Rows of query, key and value, head by head, from blocks of 64 to one channel of each after the other."""
    if len(value) % (3 * _HEAD):
        raise CheckpointError(f"attention over {len(value) // 3} channels, which are no heads of {_HEAD}")
    return value.unflatten(0, (-1, 3, _HEAD)).transpose(1, 2).flatten(0, 2)
