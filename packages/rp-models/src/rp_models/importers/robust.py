"""Files of robust classifiers: DM-AT's releases, RobustBench's model zoo, TRADES.

The networks differ little, the files much: weights lie bare or inside dictionaries, keys begin with `module.`,
`model.`, `module.0.` or nothing, normalisation constants are there or not. The network is recognised by its first
convolution, and everything that shapes tell is read from them.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.checkpoint import CheckpointError
from rp_models.importers.imported import Imported, count_blocks
from rp_models.importers.torch_file import read_torch_file
from rp_models.importers.weights import find_weights
from rp_models.networks.normalization import CIFAR10, CIFAR100, TINY_IMAGENET
from rp_models.robustbench.layouts import complete, split_constants
from rp_models.robustbench.likeness import by_name, by_name_only, doubt, normalised_in_code

_STEMS = ("init_conv.weight", "conv_2d.weight", "conv1.weight")
_OTHER_STEMS = (  # of networks that are read by their entry's name only
    *("stem_conv.weight", "conv_1_3x3.weight", "cls_token", "patch_embed.proj.weight", "features.0.weight"),
    *("stem.stem.stem.0.weight", "stem.stem.0.weight", "stem.0.weight"),
)
_STATISTICS = {10: CIFAR10, 100: CIFAR100, 200: TINY_IMAGENET}


def read_robust(
    path: str | Path,
    *,
    averaged: bool = True,
    activation: str = "silu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Imported:
    """Read a file of DM-AT, RobustBench or TRADES.

    Returns `Imported` for `wide-resnet`, `dm-wide-resnet`, `preact-resnet`, `dm-preact-resnet` or `cifar-resnet`.
    Raises CheckpointError if the file cannot be read or its network is none of these; the message names RobustBench's
    entries that it could be.

    Args:
        averaged: of a DM-AT file that has both, the averaged weights (those of the published figures) or the others.
        activation: "silu" or "relu"; leaves no trace in a file. Used for DM-AT's and DeepMind's networks alone.
        mean: per-channel mean of the input; None for the constants in the file; without any, DM-AT's own for 10, 100
            and 200 classes (CIFAR-10, CIFAR-100, TinyImageNet; SVHN's networks need theirs given here) where the
            network is DM-AT's or DeepMind's, and none for the others, with a warning where RobustBench has entries of
            the same network whose constants lie in its code.
    """
    content: Mapping[str, Any] = read_torch_file(path, allow_namespace=True)
    if not averaged:
        if not isinstance(content.get("unaveraged_model_state_dict"), Mapping):
            raise CheckpointError(f"{path}: holds one set of weights only; read it with averaged=True")
        content = content["unaveraged_model_state_dict"]
    found, stem, prefix = find_weights(content, (*_OTHER_STEMS, *_STEMS), "any network known here", path)
    state, constants = split_constants(found)
    if prefix.endswith("1.") and mean is None and constants is None:
        raise CheckpointError(
            f"{path}: trained behind a normalisation layer whose constants are not in the file; give mean= and std= "
            "(DM-AT's own for CIFAR-10 are (0.4914, 0.4822, 0.4465) and (0.2023, 0.1994, 0.2010))"
        )
    state = complete(state)
    if entries := by_name_only(state):
        raise CheckpointError(f"{path}: {by_name(entries)}")
    try:
        architecture, arguments = _describe(stem, state)
    except KeyError as missing:
        raise CheckpointError(f"{path}: starts like a known network but has no {missing}") from None
    arguments["in_channels"] = state[stem].shape[1]
    if architecture.startswith("dm-"):
        arguments["activation"] = activation
        constants = constants or _STATISTICS.get(arguments["num_classes"])
    if mean is not None or std is not None:
        arguments |= {"mean": mean, "std": std}
    elif constants is not None:
        arguments |= constants._asdict()
    elif entries := normalised_in_code(state):
        warnings.warn(f"{path}: {doubt(entries)}", stacklevel=2)
    return Imported(architecture, arguments, state)


def _describe(stem: str, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The zoo's name and the arguments that keys and shapes tell."""
    if stem == "init_conv.weight":
        depth, width = 6 * count_blocks(state, "layer.0.block.") + 4, len(state["batchnorm.weight"]) // 64
        return "dm-wide-resnet", {"depth": depth, "width": width, "num_classes": len(state["logits.weight"])}
    if stem == "conv_2d.weight":
        depth = _resnet_depth(count_blocks(state, "layer_2."), bottleneck=False)
        return "dm-preact-resnet", {"depth": depth, "num_classes": len(state["logits.weight"])}
    if "block1.layer.0.conv1.weight" in state:
        depth, width = 6 * count_blocks(state, "block1.layer.") + 4, len(state["bn1.weight"]) // 64
        switches = {"sub_block": any(key.startswith("sub_block1.") for key in state), "head_bias": "fc.bias" in state}
        arguments = {"depth": depth, "width": width, "num_classes": len(state["fc.weight"]), **switches}
        return "wide-resnet", arguments | ({"activation": "pssilu"} if "activation.alpha" in state else {})
    depth = _resnet_depth(count_blocks(state, "layer3."), bottleneck="layer1.0.conv3.weight" in state)
    arguments = {"depth": depth, "num_classes": len(state["linear.weight"])}
    if "bn.weight" in state:
        return "preact-resnet", arguments
    if "bn1.weight" in state:
        return "cifar-resnet", arguments
    return "preact-resnet", arguments | {"final_norm": False, "raw_shortcut": True}  # the one public layout without


def _resnet_depth(blocks: int, *, bottleneck: bool) -> int:
    """The depth of a ResNet with that many blocks in its third group."""
    depths = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
    if (blocks, bottleneck) not in depths:
        raise CheckpointError(
            f"no known ResNet has {blocks} {'bottlenecks' if bottleneck else 'blocks'} in its third group"
        )
    return depths[blocks, bottleneck]
