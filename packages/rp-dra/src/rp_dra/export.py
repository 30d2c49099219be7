"""Writing a trained classifier in the layout that RobustBench's model zoo loads.

`rp_models.save` writes our own layout, which `rp_models.load` opens without further information; this one holds the
weights alone, under the backbone's bare keys.
"""

import os
from pathlib import Path

import torch
from rp_models.networks.backbones import Backbone
from rp_models.networks.dm_wide_resnet import DMWideResNet, RaWideResNet
from rp_models.networks.preact_resnet import DMPreActResNet, PreActResNet
from rp_models.networks.resnet import CifarResNet
from rp_models.networks.vit import VisionTransformer
from rp_models.networks.wide_resnet import WideResNet
from torch import nn

# what RobustBench or timm has a class for, so that a file of weights says all
_KNOWN = (
    *(DMWideResNet, WideResNet, RaWideResNet, DMPreActResNet, PreActResNet, CifarResNet),
    *(VisionTransformer, Backbone),
)


def export_robustbench(model: nn.Module, path: str | Path) -> None:
    """Write a classifier's weights to one `.pt` file: a dictionary of plain tensors, complete or not at all.

    RobustBench builds the network itself and knows its input normalisation; wide ResNets of DM-AT fit its
    `DMWideResNet(num_classes, depth, width, activation_fn, mean, std)` as they are. Networks of timm, and our vision
    transformers, carry timm's keys; RobustBench puts a normalisation layer before them, which has no entry in the file.

    Args:
        model: the classifier, e.g. `trainer.result()` or what `rp_models.load` gave.
        path: the file; an existing one is replaced only after the new one is complete.
    """
    if not isinstance(model, _KNOWN):
        raise TypeError(
            f"neither RobustBench nor timm has a class for a {type(model).__name__}; there are those of "
            f"{', '.join(kind.__name__ for kind in _KNOWN)}. rp_models.save stores any network of the zoo"
        )
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
