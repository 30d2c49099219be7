"""Networks for the digits that were never trained, small enough for a test."""

import rp_models
from torch import nn


def tiny_classifier() -> nn.Module:
    """A wide ResNet of 10 layers, of random weights."""
    return rp_models.build("dm-wide-resnet", depth=10, width=1, in_channels=1, mean=[0.3], std=[0.4])


def tiny_maskdit() -> nn.Module:
    """A MaskDiT without classes, of random weights."""
    return rp_models.build("maskdit-digits", width=16, heads=2, depth=1, decoder_width=16, decoder_depth=1)
