"""Settings of encoders and probes that are trained here; importing this does not import torch."""

from dataclasses import dataclass
from typing import Literal

from rp_models.settings import at_least, within


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSettings:
    """Training a classifier with a diffusion model's encoder (Section 5.6 and Appendix E of the DRA paper).

    The paper gives no recipe for it; these are EDM's optimiser and average with a cosine schedule.
    """

    epochs: int = 200  # passes over the training images
    batch_size: int = 128  # images in a step
    lr: float = 1e-3  # peak of the cosine schedule, of Adam; about a tenth of it for a pre-trained encoder
    warmup: float = 0.025  # share of the steps with rising rate
    ema_half_life: int = 500_000  # images after which a weight's share in the average has halved
    crop_padding: int = 4  # zero pixels around the image before the random crop
    flip: bool = True  # mirror left and right at random
    sigma: float = 0.1  # noise level, in EDM's units (images in [-1, 1])
    head: Literal["linear", "mlp"] = "linear"  # what classifies the features

    def __post_init__(self) -> None:
        at_least(self, "encoder.", epochs=1, batch_size=1, crop_padding=0)
        within(self, "encoder.", lr="positive", sigma="positive", ema_half_life="positive", warmup="[0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """Training a probe with fresh noise and augmentation (Xiang et al. 2023, arXiv:2303.09769, CIFAR-10)."""

    head: Literal["linear", "attention"] = "linear"  # on features averaged over space, or on all positions
    blocks: int = 1  # of the attention head
    heads: int = 8  # of each block's attention
    epochs: int = 15
    batch_size: int = 128  # images in a step
    lr: float = 1e-3  # of Adam, falling as a cosine once an epoch
    crop_padding: int = 4  # zero pixels around the image before the random crop
    flip: bool = True  # mirror left and right at random

    def __post_init__(self) -> None:
        at_least(self, "probe.", epochs=1, batch_size=1, crop_padding=0, blocks=1, heads=1)
        within(self, "probe.", lr="positive")
