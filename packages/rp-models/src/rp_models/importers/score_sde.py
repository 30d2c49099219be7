"""The files of score_sde's DDPM++ networks (Song et al. 2021, arXiv:2011.13456), which DiffPure and ADBM use.

| file | becomes |
|---|---|
| `checkpoint_8.pth` (`cifar10_ddpmpp_deep_continuous`, VP), elsewhere `32x32_ckpt_8_diffusion.pth` | `vp-precond` |
| checkpoints of ADBM, of the same layout | `vp-precond` |
| a bare state dict with the same keys, as ADDT writes them | `vp-precond` |

A training checkpoint has the averaged weights as a list without names, in the order of the network's parameters. One
tensor too few would shift all that follow, so the network is read off the list's shapes, block by block, and every
tensor is compared with the shape that its place demands.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rp_models.checkpoint import CheckpointError
from rp_models.importers.diffusion import Weights
from rp_models.importers.imported import Imported, averaging_filters, expected_state
from rp_models.importers.torch_file import only_tensors, read_torch_file

_PATTERNS = {"attention": "1121212121", "block": "1141211141", "linear": "21", "conv": "41", "norm": "11"}
_BLOCK = ("norm0", "conv0", "affine", "norm1", "conv1", "skip")
_ORDER = ("GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1", "Conv_2", "NIN_0", "NIN_1", "NIN_2", "NIN_3")


def read_score_sde(
    path: str | Path, *, weights: Weights = "ema", img_resolution: int = 32, dropout: float = 0.1
) -> Imported:
    """Read a DDPM++ network of score_sde with its continuous variance-preserving process, for `vp-precond`.

    Args:
        weights: the average of the weights ("ema", the list), which all published figures use, or "model", by name. A
            bare state dict has only the latter and is read with either.
        img_resolution: of the images; no shape tells it.
        dropout: of further training; no shape tells it either.

    Raises:
        CheckpointError: if the file cannot be read, or its tensors are those of another architecture.
    """
    content = read_torch_file(path, allow_namespace=True)
    try:
        tensors = _listed(content, weights)
        layout = list(_layout(list(_parts(tensors)), img_resolution))
        arguments = _arguments(layout, img_resolution) | {"dropout": dropout}
        return Imported("vp-precond", arguments, _checked(arguments, dict(_named(layout))))
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _listed(content: Mapping[str, Any], weights: Weights) -> list[Tensor]:
    """The parameters in the network's order."""
    bare = _ordered(content)
    named = _ordered(content["model"]) if isinstance(content.get("model"), Mapping) else {}
    if bare or weights == "model":
        if not (bare or named):
            raise CheckpointError(f"there is no network of score_sde in it, the entries are {list(content)[:5]}")
        return list((bare or named).values())
    average = content.get("ema")
    listed = average.get("shadow_params") if isinstance(average, Mapping) else None
    if not isinstance(listed, Sequence):
        raise CheckpointError(f"expected the averaged weights ema/shadow_params, the entries are {list(content)[:5]}")
    tensors = list(only_tensors({f"shadow_params[{i}]": tensor for i, tensor in enumerate(listed)}, "ema").values())
    if named and len(named) != len(tensors):
        raise CheckpointError(f"the average has {len(tensors)} tensors and the network {len(named)} parameters")
    for number, ((key, value), tensor) in enumerate(zip(named.items(), tensors, strict=False)):
        if value.shape != tensor.shape:
            raise CheckpointError(
                f"tensor {number} of the average has shape {tuple(tensor.shape)}, but {key} has {tuple(value.shape)}"
            )
    return tensors


def _ordered(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters of a state dict by name, in the order of the network's modules; empty if it is none."""
    named = {str(key).removeprefix("module."): value for key, value in state.items()}
    own = {key: value for key, value in named.items() if key.startswith("all_modules.")}

    def place(key: str) -> tuple[int, int, bool]:
        _, module, *inner = key.split(".")
        if not module.isdecimal() or len(inner) not in (1, 2) or (len(inner) == 2 and inner[0] not in _ORDER):
            raise CheckpointError(f"{key} is no parameter of a DDPM++ network")
        return int(module), _ORDER.index(inner[0]) if len(inner) == 2 else 0, inner[-1] in ("bias", "b")

    return only_tensors({key: own[key] for key in sorted(own, key=place)}, "the state dict")


class _Part(NamedTuple):
    """A piece of the network: "linear", "conv", "norm", "block" or "attention", with its tensors in their order."""

    kind: str
    tensors: list[Tensor]

    @property
    def resamples(self) -> bool:
        """Whether it is a block that halves or doubles the resolution: only then has an even shortcut a convolution."""
        return self.kind == "block" and len(self.tensors) == 12 and self.tensors[-1].shape == self.tensors[0].shape


def _parts(tensors: Sequence[Tensor]) -> Iterator[_Part]:
    """The pieces of the list, recognised by the dimensions of what comes next."""
    dimensions = "".join(str(tensor.dim()) for tensor in tensors)
    start = 0
    while start < len(tensors):
        kind = next((kind for kind, pattern in _PATTERNS.items() if dimensions.startswith(pattern, start)), None)
        if kind is None:
            raise CheckpointError(
                f"tensor {start} of the list has shape {tuple(tensors[start].shape)}, with which no layer of a DDPM++ "
                "network begins; is one missing before it?"
            )
        end = start + len(_PATTERNS[kind])
        if kind == "block" and dimensions.startswith("41", end) and tensors[end].shape[2:] == (1, 1):
            end += 2  # the shortcut's convolution
        yield _Part(kind, list(tensors[start:end]))
        start = end


def _layout(parts: Sequence[_Part], img_resolution: int) -> Iterator[tuple[str, _Part]]:
    """Each piece with the name of the module that it fills, which attention shares with the block before it."""
    levels = sum(part.resamples for part in parts) // 2 + 1
    count = sum(part.kind == "block" for part in parts)
    blocks, odd = divmod(count - 3 * levels, 2 * levels)
    if odd or blocks < 1:
        raise CheckpointError(f"{count} blocks at {levels} resolutions make no DDPM++ network")
    stages = [f"{img_resolution >> level}x{img_resolution >> level}" for level in range(levels)]
    names = [f"enc.{stages[0]}_conv"]
    for level, stage in enumerate(stages):
        names += [f"enc.{stage}_down"] * (level > 0) + [f"enc.{stage}_block{number}" for number in range(blocks)]
    names += [f"dec.{stages[-1]}_in0", f"dec.{stages[-1]}_in1"]
    for level, stage in reversed(list(enumerate(stages))):
        names += [f"dec.{stage}_up"] * (level < levels - 1)
        names += [f"dec.{stage}_block{number}" for number in range(blocks + 1)]
    names = ["map_layer0", "map_layer1", *names, f"dec.{stages[0]}_aux_norm", f"dec.{stages[0]}_aux_conv"]
    others = [part for part in parts if part.kind != "attention"]
    if len(others) != len(names):
        raise CheckpointError(f"expected {len(names)} layers and blocks, the list has {len(others)}")
    name_of = iter(names)
    name = ""
    for part in parts:
        name = name if part.kind == "attention" else next(name_of)
        yield name, part


def _arguments(layout: Sequence[tuple[str, _Part]], img_resolution: int) -> dict[str, Any]:
    """The constructor's arguments that the pieces tell."""
    embedding, (_, stem) = layout[0][1], layout[2]
    if [part.kind for _, part in layout[:3]] != ["linear", "linear", "conv"]:
        raise CheckpointError("the list does not begin like a DDPM++ network, with two linear layers and a convolution")
    width, channels = stem.tensors[0].shape[:2]
    if embedding.tensors[0].shape[1] != width:
        raise CheckpointError(
            f"the noise embedding has {embedding.tensors[0].shape[1]} values where a DDPM++ network of this width has "
            f"{width}; networks with Fourier features (NCSN++) are not read"
        )
    blocks = [(name, part) for name, part in layout if name.startswith("enc.") and "_block" in name]
    outputs = {name.split("_")[0]: len(part.tensors[3]) // width for name, part in blocks if part.kind == "block"}
    attends = {name.split("_")[0].split("x")[1] for name, part in blocks if part.kind == "attention"}
    return {
        "img_resolution": img_resolution,
        "img_channels": channels,
        "model_type": "SongUNet",
        "model_channels": width,
        "channel_mult": list(outputs.values()),
        "num_blocks": sum(part.kind == "block" for _, part in blocks) // len(outputs),
        "attn_resolutions": sorted(map(int, attends), reverse=True),
    }


def _named(layout: Sequence[tuple[str, _Part]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the names and in the shapes of `SongUNet`."""
    for name, (kind, tensors) in layout:
        if kind == "attention":
            norm_weight, norm_bias, *linear = tensors
            weights, biases = [weight.T for weight in linear[::2]], linear[1::2]  # stored from input to output
            yield f"model.{name}.norm2.weight", norm_weight
            yield f"model.{name}.norm2.bias", norm_bias
            # row 3c + j of the twin is channel c of query, key or value j
            yield f"model.{name}.qkv.weight", torch.stack(weights[:3], dim=1).flatten(0, 1)[:, :, None, None]
            yield f"model.{name}.qkv.bias", torch.stack(biases[:3], dim=1).flatten()
            yield f"model.{name}.proj.weight", weights[3][:, :, None, None]
            yield f"model.{name}.proj.bias", biases[3]
            continue
        inner = [f"{layer}." for layer in _BLOCK] if kind == "block" else [""]
        keys = [f"model.{name}.{layer}{end}" for layer in inner for end in ("weight", "bias")]
        yield from zip(keys, tensors, strict=False)


def _checked(arguments: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with the resampling filters' constants, once each tensor has the shape that its place demands."""
    expected = expected_state("vp-precond", arguments)
    state = state | averaging_filters(expected)
    for key, like in expected.items():
        if key not in state or state[key].shape != like.shape:
            found = tuple(state[key].shape) if key in state else "nothing"
            raise CheckpointError(
                f"these are no weights of a DDPM++ network: {key} needs the shape {tuple(like.shape)}, found {found}"
            )
    if extra := sorted(state.keys() - expected.keys()):
        raise CheckpointError(f"these are no weights of a DDPM++ network, which has no {extra[0]}")
    return {key: state[key] for key in expected}
