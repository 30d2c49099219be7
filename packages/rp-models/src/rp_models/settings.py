"""Settings of what this package trains and makes; importing this module does not import torch."""

from dataclasses import dataclass
from typing import Literal


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds; keeps the checks of settings to a line each."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeSettings:
    """Precision and speed of a training; each of these changes the weights, if only by rounding."""

    precision: Literal["float32", "bf16"] = "float32"  # of matrix products and convolutions; sums are in float32
    compile: bool = False  # torch.compile the network
    channels_last: bool = False  # images and convolution weights with the channels innermost; for GPUs
    clip_norm: float | None = None  # largest norm of the gradient of all parameters together; None: any

    def __post_init__(self) -> None:
        require(
            self.clip_norm is None or self.clip_norm > 0, f"compute.clip_norm must be positive, got {self.clip_norm}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EdmSettings:
    """The EDM diffusion model: its U-Net and its training (Karras et al. 2022, arXiv:2206.00364)."""

    model_channels: int = 128  # channels at full resolution, before the multipliers
    channel_mult: tuple[int, ...] = (2, 2, 2)  # channel multiplier of each resolution
    num_blocks: int = 4  # residual blocks per resolution
    attn_resolutions: tuple[int, ...] = (16,)  # resolutions with self-attention
    dropout: float = 0.13  # inside the residual blocks
    conditional: bool = (
        True  # whether the model knows the class; DiffPure and likelihood purifiers take one that does not
    )
    steps: int = 400_000  # optimiser steps
    batch_size: int = 512  # images in a step
    lr: float = 1e-3  # highest rate, of Adam
    rampup_images: int = 10_000_000  # images over which the learning rate rises from zero
    ema_half_life: int = 500_000  # images after which a weight's share in the average has halved
    ema_ramp: float = 0.05  # the half-life is at most this share of the images seen

    def __post_init__(self) -> None:
        require(
            self.model_channels >= 4 and self.model_channels % 4 == 0,
            f"edm.model_channels must be a positive multiple of 4, got {self.model_channels}",
        )
        for name in ("channel_mult", "num_blocks"):
            values = getattr(self, name) if name == "channel_mult" else (getattr(self, name),)
            require(len(values) > 0 and min(values) >= 1, f"edm.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rampup_images", "ema_half_life"):
            require(getattr(self, name) >= 0, f"edm.{name} must not be negative, got {getattr(self, name)}")
        require(self.steps >= 1, f"edm.steps must be at least 1, got {self.steps}")
        require(self.batch_size >= 1, f"edm.batch_size must be at least 1, got {self.batch_size}")
        require(self.lr > 0, f"edm.lr must be positive, got {self.lr}")
        require(0 <= self.dropout < 1, f"edm.dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeSettings:
    """A masked autoencoder and its training (He et al. 2022, arXiv:2111.06377); the defaults are for CIFAR-10."""

    network: str = "mae-vit-base-p4-32"  # a masked autoencoder of the zoo that fits the data set's images
    mask_rate: float = 0.75  # share of hidden patches
    steps: int = 1_564_000  # 2,000 epochs of 50,000 images, as for MAE-Pure
    batch_size: int = 64
    lr: float = 1e-3  # peak rate of AdamW, not scaled by the batch size
    warmup_steps: int = 31_280  # 40 epochs
    weight_decay: float = 0.05  # not on biases and norms
    crop_padding: int = 0  # pixels around the image from which it is cropped at random; 0: no crops
    flip: bool = False  # mirror half of the images

    def __post_init__(self) -> None:
        require(0 < self.mask_rate < 1, f"mae.mask_rate must be in (0, 1), got {self.mask_rate}")
        require(self.steps >= 1, f"mae.steps must be at least 1, got {self.steps}")
        require(self.batch_size >= 1, f"mae.batch_size must be at least 1, got {self.batch_size}")
        require(self.lr > 0, f"mae.lr must be positive, got {self.lr}")
        require(
            0 <= self.warmup_steps <= self.steps,
            f"mae.warmup_steps must be between 0 and mae.steps = {self.steps}, got {self.warmup_steps}",
        )
        require(self.weight_decay >= 0, f"mae.weight_decay must not be negative, got {self.weight_decay}")
        require(self.crop_padding >= 0, f"mae.crop_padding must not be negative, got {self.crop_padding}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDitSettings:
    """A MaskDiT and its training (Zheng et al. 2023, arXiv:2306.09305)."""

    network: str = "maskdit-cifar10"  # a MaskDiT of the zoo that fits the data set's images
    num_classes: int = 0  # of the class condition; 0 for an unconditional model
    mask_rate: float = 0.5  # share of masked patches
    mae_weight: float = 0.1  # of the reconstruction term
    label_dropout: float = 0.1  # share of labels that are left out, for guidance
    steps: int = 2_000_000  # optimiser steps in all
    unmasked_steps: int = 0  # of these, the last ones without masks
    batch_size: int = 1024  # images in a step
    lr: float = 1e-4  # of AdamW
    unmasked_lr: float = 5e-5  # of the steps without masks
    warmup_steps: int = 0  # steps over which the rate rises from zero; the published training has none
    weight_decay: float = 0.0
    ema_half_life: int = 7_000_000  # images after which a weight's share in the average has halved
    ema_ramp: float = 0.05  # the half-life is at most this share of the images seen

    @property
    def arguments(self) -> dict[str, int]:
        """Arguments of the network beside the zoo's."""
        return {"num_classes": self.num_classes} if self.num_classes else {}

    def __post_init__(self) -> None:
        require(0 <= self.mask_rate < 1, f"maskdit.mask_rate must be in [0, 1), got {self.mask_rate}")
        require(0 <= self.label_dropout <= 1, f"maskdit.label_dropout must be in [0, 1], got {self.label_dropout}")
        for name in ("steps", "batch_size"):
            require(getattr(self, name) >= 1, f"maskdit.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_classes", "mae_weight", "warmup_steps", "weight_decay", "ema_half_life"):
            require(getattr(self, name) >= 0, f"maskdit.{name} must not be negative, got {getattr(self, name)}")
        require(self.lr > 0 and self.unmasked_lr > 0, "maskdit.lr and maskdit.unmasked_lr must be positive")
        require(
            0 <= self.unmasked_steps <= self.steps,
            f"maskdit.unmasked_steps must be between 0 and maskdit.steps = {self.steps}, got {self.unmasked_steps}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """Synthetic images: how many, and the deterministic Heun sampler that makes them."""

    images: int = 1_000_000  # in all, the same number of each class
    steps: int = 20  # sampler steps; 2 * steps - 1 network evaluations an image
    batch_size: int = 500  # images made at a time; changes no image

    def __post_init__(self) -> None:
        require(self.images >= 0, f"synthetic.images must not be negative, got {self.images}")
        require(self.steps >= 2, f"synthetic.steps must be at least 2, got {self.steps}")
        require(self.batch_size >= 1, f"synthetic.batch_size must be at least 1, got {self.batch_size}")
