"""How the state dicts of RobustBench's files become those of the networks here.

Source: Croce et al. 2021, arXiv:2010.09670, and its public loader.
"""

import hashlib
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rp_models.networks.normalization import Statistics

State = dict[str, Tensor]

_CONSTANTS = re.compile(r"(^|\.)(mu|sigma|mean|std)$")
_UNUSED = ("conv1.scores", "model_preact_hl1.")  # of pruning and of a training head; RobustBench drops them as well


def split_constants(state: Mapping[str, Tensor]) -> tuple[State, Statistics | None]:
    """The state dict without stray normalisation buffers, and what those say."""
    found = {match[2]: key for key in state if (match := _CONSTANTS.search(key))}
    mean, std = found.get("mu", found.get("mean")), found.get("sigma", found.get("std"))
    weights = {key: value for key, value in state.items() if key not in found.values()}
    if mean is None or std is None:
        return weights, None
    return weights, Statistics(tuple(state[mean].flatten().tolist()), tuple(state[std].flatten().tolist()))


def complete(state: Mapping[str, Tensor]) -> State:
    """The state with the step counters that batch norms had not yet before torch 0.4.1."""
    counters = [key.replace("running_mean", "num_batches_tracked") for key in state if key.endswith(".running_mean")]
    return {**{key: torch.tensor(0) for key in counters if _is_norm(key, state)}, **state}


def adapted(state: Mapping[str, Tensor], network: str) -> State:
    """A file's state dict under the keys of the network of that name in the zoo."""
    used = {key: value for key, value in state.items() if not key.startswith(_UNUSED)}
    return _CHANGES.get(network, dict)(used)


def digest(state: Mapping[str, Tensor]) -> str:
    """A digest of the keys and shapes of a state dict: twelve hexadecimal digits, whatever their order."""
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}\n" for key, value in state.items())
    return hashlib.blake2b("".join(lines).encode(), digest_size=6).hexdigest()


def _is_norm(counter: str, state: Mapping[str, Tensor]) -> bool:
    """Whether it is a batch norm that has this counter, and not an operator of MeanSparse."""
    return counter.replace("num_batches_tracked", "threshold") not in state


def _swin(state: Mapping[str, Tensor]) -> State:
    """Microsoft's layout and that of timm before 0.8 to today's: a stage's reduction stands at its start."""
    state = {key: value for key, value in state.items() if not key.endswith(("relative_position_index", "attn_mask"))}
    if not any(key.startswith("layers.0.downsample.") for key in state):
        return state
    moved = {re.sub(r"^layers\.(\d+)\.downsample", _next_stage, key): value for key, value in state.items()}
    return {re.sub(r"^head\.", "head.fc.", key): value for key, value in moved.items()}


def _next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _torchvision_resnet(state: Mapping[str, Tensor]) -> State:
    """Names of torchvision's ResNet to those of the common one for small images."""
    return {
        re.sub(r"^fc\.", "linear.", key.replace(".downsample.", ".shortcut.")): value for key, value in state.items()
    }


def _xcit(state: Mapping[str, Tensor]) -> State:
    """The authors' names to timm's, which also has three matrices where theirs is one."""
    changed: State = {}
    for key, value in state.items():
        if match := re.match(r"(cls_attn_blocks\.\d+\.attn\.)qkv\.(weight|bias)$", key):
            changed |= {f"{match[1]}{name}.{match[2]}": part for name, part in zip("qkv", value.chunk(3), strict=True)}
        else:
            changed[key.replace("pos_embeder.", "pos_embed.")] = value
    return changed


_CHANGES: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    "swin": _swin,
    "cifar-resnet": _torchvision_resnet,
    "xcit": _xcit,
}
