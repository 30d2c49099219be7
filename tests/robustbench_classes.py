"""Classes with the names and signatures of RobustBench's, made of the networks here, which have the same keys."""

import sys
from types import ModuleType

import pytest
from rp_models.networks.classifier import BLOCKS
from rp_models.networks.dm_wide_resnet import DMWideResNet, RaWideResNet
from rp_models.networks.preact_resnet import DMPreActResNet, PreActResNet
from rp_models.networks.resnet import CifarResNet
from rp_models.networks.wide_resnet import WideResNet
from torch import nn

CONSTANTS = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
_PACKAGES = ("robustbench", "robustbench.model_zoo", "robustbench.model_zoo.architectures")


class Swish(nn.Module):
    """What a network is told to use; it is not called here."""


def activation(kind: type[nn.Module]) -> str:
    """Our name of an activation's class."""
    return {Swish: "silu", nn.SiLU: "silu", nn.ReLU: "relu"}[kind]


class DMWide(DMWideResNet):
    def __init__(self, num_classes=10, depth=28, width=10, activation_fn=nn.ReLU, mean=CONSTANTS[0], std=CONSTANTS[1]):
        super().__init__(depth, width, num_classes, 3, mean, std, activation(activation_fn))


class DMPreAct(DMPreActResNet):
    def __init__(self, num_classes=10, depth=18, width=0, activation_fn=nn.ReLU, mean=CONSTANTS[0], std=CONSTANTS[1]):
        assert width == 0
        super().__init__(depth, num_classes, 3, mean, std, activation(activation_fn))


class Wide(WideResNet):
    def __init__(self, depth=28, num_classes=10, widen_factor=10, sub_block1=False, dropRate=0.0, bias_last=True):
        assert dropRate == 0
        super().__init__(depth, widen_factor, num_classes, head_bias=bias_last, sub_block=sub_block1)


def depth_of(block: str, num_blocks: tuple[int, ...]) -> int:
    """The depth of a ResNet with these blocks."""
    return next(d for d, blocks in BLOCKS.items() if blocks == num_blocks and (d >= 50) == (block == "Bottleneck"))


class ResNet(CifarResNet):
    def __init__(self, block, num_blocks, num_classes=10):
        super().__init__(depth_of(block, num_blocks), num_classes)


class PreAct(PreActResNet):
    def __init__(self, block, num_blocks, num_classes=10, bn_before_fc=False, out_shortcut=False):
        raw = block == "PreActBlock" and not out_shortcut
        super().__init__(depth_of(block, num_blocks), num_classes, final_norm=bn_before_fc, raw_shortcut=raw)


class RaWide(RaWideResNet):
    def __init__(
        self,
        mean,
        std,
        stem_width,
        depth,
        stage_width,
        groups,
        activation_fn,
        se_ratio,
        se_activation,
        se_order,
        num_classes=10,
    ):
        assert (groups, se_activation, se_order) == ((1, 1, 1), nn.ReLU, 2)
        sizes = {"blocks": depth, "channels": stage_width, "stem_channels": stem_width, "se_ratio": se_ratio}
        super().__init__(**sizes, num_classes=num_classes, mean=mean, std=std, activation=activation(activation_fn))


BLOCK_NAMES = ("BasicBlock", "Bottleneck", "PreActBlock", "PreActBlockV2")
MODULES = {
    "dm_wide_resnet": {"DMWideResNet": DMWide, "DMPreActResNet": DMPreAct, "Swish": Swish},
    "wide_resnet": {"WideResNet": Wide},
    "resnet": {"ResNet": ResNet, "PreActResNet": PreAct, **{name: name for name in BLOCK_NAMES}},
    "robustarch_wide_resnet": {"NormalizedWideResNet": RaWide},
}


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `robustbench` be these classes."""
    for package in _PACKAGES:
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for name, classes in MODULES.items():
        module = ModuleType(name)
        vars(module).update(classes)
        monkeypatch.setitem(sys.modules, f"{_PACKAGES[-1]}.{name}", module)
