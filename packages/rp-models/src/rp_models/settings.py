"""Settings of what this package trains and makes; importing this module does not import torch."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

OptimizerName: TypeAlias = Literal["adam", "adamw", "sgd", "lion"]
Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds; keeps the checks of settings to a line each."""
    if not condition:
        raise ValueError(message)


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ValueError unless the value is among the choices."""
    require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")


def at_least(settings: object, prefix: str = "", **bounds: int) -> None:
    """Raise ValueError unless the settings of these names reach their bounds; None and "auto" leave a setting open."""
    for name, bound in bounds.items():
        value, what = getattr(settings, name), f"must be at least {bound}" if bound else "must not be negative"
        require(value in (None, "auto") or value >= bound, f"{prefix}{name} {what}, got {value}")


_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "positive": (lambda value: value > 0, "be positive"),
    "not negative": (lambda value: value >= 0, "not be negative"),
    "[0, 1]": (lambda value: 0 <= value <= 1, "be in [0, 1]"),
    "[0, 1)": (lambda value: 0 <= value < 1, "be in [0, 1)"),
    "(0, 1]": (lambda value: 0 < value <= 1, "be in (0, 1]"),
    "(0, 1)": (lambda value: 0 < value < 1, "be in (0, 1)"),
}


def within(settings: object, prefix: str = "", **ranges: str) -> None:
    """Raise ValueError unless the settings of these names are in their ranges, e.g. `lr="positive", p="[0, 1)"`."""
    for name, (holds, words) in ((name, _RANGES[kind]) for name, kind in ranges.items()):
        value = getattr(settings, name)
        require(holds(value), f"{prefix}{name} must {words}, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceSettings:
    """Precision and speed of networks that are not trained; the precision changes the numbers a little."""

    precision: Precision = "fp32"  # of matrix products and convolutions; sums and heads are in float32
    deterministic: bool = False  # only algorithms that give the same numbers again on the same GPU

    def __post_init__(self) -> None:
        check_precision(self.precision)


def check_precision(precision: str) -> None:
    """Refuse any other precision, e.g. of a configuration in a file."""
    reason = "; fp16 rounds the small gradients of attacks to zero" if precision in ("fp16", "float16", "half") else ""
    require(
        precision in PRECISIONS, f"compute.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}{reason}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeSettings:
    """Precision and speed of a training; each of these changes the weights, if only by rounding."""

    precision: Precision = "fp32"  # of matrix products and convolutions; sums, heads and losses are in float32
    deterministic: bool = False  # only algorithms that give the same numbers again on the same GPU
    compile: bool = False  # torch.compile the network
    cuda_graphs: bool = False  # replay compiled networks as CUDA graphs: for small ones, whose launches cost most
    channels_last: bool = False  # images and convolution weights with the channels innermost; for GPUs
    clip_norm: float | None = None  # largest norm of the gradient of all parameters together; None: any
    # images of a step that one process computes at a time, their gradients added up; None: all of its part, or on a GPU
    # as many as its memory is reckoned to hold, which the run records. The same numbers to rounding, but batch norms
    # see each micro-batch for itself (ghost batches)
    micro_batch: int | None = None
    checkpointing: bool = False  # keep the inputs of blocks alone, and compute them again in backward passes
    # which images batch norms see in several processes: all of a (micro-)batch, or those of their own process, whose
    # running statistics are then the first one's
    bn: Literal["sync", "local"] = "sync"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        at_least(self, "compute.", micro_batch=1)
        require(
            self.clip_norm is None or self.clip_norm > 0, f"compute.clip_norm must be positive, got {self.clip_norm}"
        )
        require(self.compile or not self.cuda_graphs, "compute.cuda_graphs needs compute.compile, set both")


@dataclass(frozen=True, kw_only=True, slots=True)
class EdmSettings:
    """The EDM diffusion model: its U-Net and its training (Karras et al. 2022, arXiv:2206.00364)."""

    model_channels: int = 128  # channels at full resolution, before the multipliers
    channel_mult: tuple[int, ...] = (2, 2, 2)  # channel multiplier of each resolution
    num_blocks: int = 4  # residual blocks per resolution
    attn_resolutions: tuple[int, ...] = (16,)  # resolutions with self-attention
    dropout: float = 0.13  # inside the residual blocks
    conditional: bool = True  # whether the model knows the class; purifiers take one that does not
    steps: int = 400_000  # optimiser steps
    batch_size: int = 512  # images in a step
    lr: float = 1e-3  # highest rate, of Adam
    rampup_images: int = 10_000_000  # images over which the learning rate rises from zero
    ema_half_life: int = 500_000  # images after which a weight's share in the average has halved
    ema_ramp: float = 0.05  # the half-life is at most this share of the images seen
    augment: float = 0.0  # probability of each change of EDM's augmentation; 0.12 in the published CIFAR-10 training

    def __post_init__(self) -> None:
        at_least(self, "edm.", num_blocks=1, steps=1, batch_size=1, rampup_images=0, ema_half_life=0)
        within(self, "edm.", lr="positive", augment="[0, 1]", dropout="[0, 1)")
        require(
            self.model_channels >= 4 and self.model_channels % 4 == 0,
            f"edm.model_channels must be a positive multiple of 4, got {self.model_channels}",
        )
        require(min(self.channel_mult, default=0) >= 1, f"edm.channel_mult must be at least 1, got {self.channel_mult}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeSettings:
    """A masked autoencoder and its training (He et al. 2022, arXiv:2111.06377); the defaults are for CIFAR-10."""

    network: str = "mae-vit-base-p4-32"  # a masked autoencoder of the zoo that fits the data set's images
    sizes: dict[str, int] = field(default_factory=dict)  # over the network's own, e.g. image_size 64 patch_size 8
    mask_rate: float = 0.75  # share of hidden patches; 0 (none) only where images are noised instead
    steps: int = 1_564_000  # 2,000 epochs of 50,000 images, as for MAE-Pure
    batch_size: int = 64
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3  # peak rate, not scaled by the batch size
    warmup_steps: int = 31_280  # 40 epochs
    second_steps: int = 0  # of the steps, the last ones as a second cosine that starts at second_lr
    second_lr: float = 1.5e-4
    weight_decay: float = 0.05  # not on biases and norms
    crop_padding: int = 0  # pixels around the image from which it is cropped at random; 0: no crops
    crop_scale: float = 1.0  # smallest share of the image's area in random resized crops; 1: none
    flip: bool = False  # mirror half of the images
    ema_half_life: int = 0  # images after which a weight's share in the average has halved; 0: no average

    def __post_init__(self) -> None:
        at_least(self, "mae.", steps=1, batch_size=1, weight_decay=0, crop_padding=0, ema_half_life=0)
        within(self, "mae.", mask_rate="[0, 1)", lr="positive", second_lr="positive", crop_scale="(0, 1]")
        require(
            0 <= self.second_steps < self.steps,
            f"mae.second_steps must be between 0 and mae.steps = {self.steps}, got {self.second_steps}",
        )
        first = self.steps - self.second_steps
        require(
            0 <= self.warmup_steps <= first,
            f"mae.warmup_steps must be between 0 and the {first} steps of the first cosine, got {self.warmup_steps}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDitSettings:
    """A MaskDiT and its training (Zheng et al. 2023, arXiv:2306.09305)."""

    network: str = "maskdit-cifar10"  # a MaskDiT of the zoo that fits the data set's images
    sizes: dict[str, int] = field(default_factory=dict)  # over the network's own, e.g. image_size 64 patch_size 8
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
        return {**self.sizes, **({"num_classes": self.num_classes} if self.num_classes else {})}

    def __post_init__(self) -> None:
        at_least(self, "maskdit.", steps=1, batch_size=1)
        within(self, "maskdit.", mask_rate="[0, 1)", label_dropout="[0, 1]")
        at_least(self, "maskdit.", num_classes=0, mae_weight=0, warmup_steps=0, weight_decay=0, ema_half_life=0)
        require(self.lr > 0 and self.unmasked_lr > 0, "maskdit.lr and maskdit.unmasked_lr must be positive")
        require(
            0 <= self.unmasked_steps <= self.steps,
            f"maskdit.unmasked_steps must be between 0 and maskdit.steps = {self.steps}, got {self.unmasked_steps}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StandardSettings:
    """A classifier and its standard training, by cross-entropy on clean images."""

    network: str = "wrn-28-10-swish"  # a classifier of the zoo; channels, classes, mean and std are the data set's
    sizes: dict[str, int] = field(default_factory=dict)  # over the network's own, e.g. depth 16 width 4
    steps: int = 76_600  # optimiser steps; 200 epochs of CIFAR
    batch_size: int = 128
    optimizer: OptimizerName = "sgd"
    lr: float = 0.1  # peak rate of the cosine
    warmup_steps: int = 0  # steps over which the rate rises from zero
    weight_decay: float = 5e-4  # not on biases and norms
    label_smoothing: float = 0.0
    crop_padding: int = 4  # zero pixels around the image from which it is cropped at random; 0: no crops
    crop_scale: float = 1.0  # smallest share of the image's area in random resized crops; 1: none
    flip: bool = True  # mirror half of the images
    rotation_degrees: float = 0.0  # largest angle of a random rotation
    cutout: int = 0  # side of a square of zeros; 0: none
    ema_half_life: int = 0  # images after which a weight's share in the average has halved; 0: no average

    def __post_init__(self) -> None:
        at_least(self, "standard.", steps=1, batch_size=1)
        at_least(self, "standard.", weight_decay=0, crop_padding=0, rotation_degrees=0, cutout=0, ema_half_life=0)
        within(self, "standard.", lr="positive", crop_scale="(0, 1]", label_smoothing="[0, 1)")
        require(
            0 <= self.warmup_steps <= self.steps,
            f"standard.warmup_steps must be between 0 and standard.steps = {self.steps}, got {self.warmup_steps}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """Synthetic images: how many, and the deterministic Heun sampler that makes them."""

    images: int = 1_000_000  # in all, the same number of each class
    steps: int = 20  # sampler steps; 2 * steps - 1 network evaluations an image
    batch_size: int = 500  # images made at a time; changes no image

    def __post_init__(self) -> None:
        at_least(self, "synthetic.", images=0, steps=2, batch_size=1)
