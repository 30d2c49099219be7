"""ImageNet's ResNets as torchvision and timm give them away (He et al. 2016, arXiv:1512.03385).

| file | becomes |
|---|---|
| torchvision's `resnet50-*.pth`, `resnet101-*.pth` (also 18, 34, 152, wide ones) | `resnet50`, `resnet101`, `timm` |
| timm's `resnet50*`, `resnet101*` as `.pth`, `pytorch_model.bin` or `model.safetensors` | the same |

Both libraries have the same keys and compute the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rp_models.checkpoint import CheckpointError, read_tensors
from rp_models.importers.diffusion import described
from rp_models.importers.imported import Imported, count_blocks
from rp_models.importers.torch_file import read_torch_file
from rp_models.importers.weights import find_weights
from rp_models.networks.normalization import IMAGENET

_DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
_IN_ZOO = ("resnet50", "resnet101")


def read_resnet(
    path: str | Path,
    *,
    mean: Sequence[float] | None = IMAGENET.mean,
    std: Sequence[float] | None = IMAGENET.std,
) -> Imported:
    """Read a ResNet of torchvision or timm; building it needs timm.

    `mean` and `std` are what the network's images were normalised with, per channel; None for nothing. Raises
    CheckpointError if the file cannot be read or is no such ResNet.
    """
    content = read_tensors(path) if Path(path).suffix == ".safetensors" else read_torch_file(path)
    state = find_weights(content, ("layer1.0.conv1.weight",), "a ResNet of torchvision or timm", path).state
    if any(key not in state for key in ("conv1.weight", "fc.weight")):
        raise CheckpointError(f"{path}: a ResNet with another stem or head than torchvision's; no conv1 or fc")
    imported = described("timm", lambda: _arguments(state), state, path)
    arguments = {**imported.arguments, "mean": mean, "std": std}
    if arguments["model"] not in _IN_ZOO:
        return imported._replace(arguments=arguments)
    return Imported(arguments.pop("model"), arguments, state)


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Timm's name of the network, its classes and channels."""
    bottleneck = "layer1.0.conv3.weight" in state
    depth = _DEPTHS.get((count_blocks(state, "layer3."), bottleneck))
    if depth is None:
        raise CheckpointError(f"no ResNet has {count_blocks(state, 'layer3.')} such blocks in its third group")
    inner, group_width = state["layer1.0.conv2.weight"].shape[:2]
    if inner != group_width or inner not in (64, 128):
        raise CheckpointError(f"its blocks are {inner} wide in groups of {group_width}: a ResNeXt, which is not read")
    model = f"resnet{depth}" if inner == 64 else f"wide_resnet{depth}_2"
    return {"model": model, "num_classes": len(state["fc.weight"]), "in_channels": state["conv1.weight"].shape[1]}
