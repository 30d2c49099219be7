"""Settings of adversarial training with DRA; the defaults are the papers', and importing this does not import torch.

Sources: Appendix B and D of the DRA paper; Wang et al. 2023, arXiv:2302.04638 (DM-AT) and its published trainer.
"""

from dataclasses import dataclass, field
from typing import Literal

from rp_models.data.augmentation import Augmentation, ResizedCrop
from rp_models.settings import at_least, require, within

Method = Literal[
    "standard", "at", "at+dra", "at+adr", "at+ikl", "dm-at", "dm-at+dra", "dm-at+adr", "dm-at+ikl", "dm-at+ikl+dra"
]
METHODS: dict[Method, str] = {
    "standard": "standard training, not robust: the comparison that shows that the attack works",
    "at": "adversarial training (TRADES unless set otherwise) on the real images alone",
    "at+dra": "the same with diffusion representation alignment",
    "at+adr": "adversarial training with labels corrected by an average of the weights (ADR)",
    "at+ikl": "adversarial training with the improved KL loss (IKL)",
    "dm-at": "adversarial training with diffusion-generated images mixed in",
    "dm-at+dra": "the same with diffusion representation alignment",
    "dm-at+adr": "ADR with diffusion-generated images mixed in",
    "dm-at+ikl": "IKL with diffusion-generated images mixed in",
    "dm-at+ikl+dra": "the same with diffusion representation alignment",
}
ObjectiveName = Literal["trades", "trades-original", "pgd-at", "ikl", "adr", "adr-trades", "standard"]
Shares = tuple[float, float]


def uses_synthetic(method: str) -> bool:
    """Whether a method trains on diffusion-generated images."""
    return method.startswith("dm-at")


def uses_alignment(method: str) -> bool:
    """Whether a method aligns features with the diffusion model's."""
    return method.endswith("+dra")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierSettings:
    """The classifier: a network of the zoo; None leaves an argument at the network's own value."""

    network: str = "dm-wide-resnet"  # a classifier of rp_models.names(), e.g. wrn-28-10-swish, vit-b2-32, convnext-b
    depth: int | None = None  # number of layers, of a wide ResNet 6 n + 4 (28); of a ViT its blocks
    width: int | None = None  # widening factor of a wide ResNet (10); of a ViT the tokens' size
    activation: Literal["silu", "relu"] | None = None  # nonlinearity of DM-AT's wide ResNet (silu)
    bn_momentum: float | None = None  # of a wide ResNet (DM-AT's: 0.01); 1 in the very first step, as in DM-AT
    # further arguments of the network as NAME VALUE pairs, e.g. patch_size 4 pool avg
    arguments: dict[str, int | float | bool | str] = field(default_factory=dict)
    # weights to start from, all but the last layer: a file, or "timm" to download those of a timm network
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.network == "dm-wide-resnet" and self.depth is not None:
            require(
                self.depth >= 10 and self.depth % 6 == 4,
                f"classifier.depth must be 6 n + 4 with n >= 1, got {self.depth}",
            )
        at_least(self, "classifier.", depth=1, width=1)
        if self.bn_momentum is not None:
            within(self, "classifier.", bn_momentum="(0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class IklSettings:
    """IKL's constants (Cui et al. 2024, arXiv:2305.13948), for the objective "ikl"."""

    version: Literal[1, 2] = 2  # 2 is GKL: wMSE divided by its weights
    alpha: float = 4.0  # weight of the soft cross-entropy
    beta: float = 20.0  # weight of wMSE
    gamma: float = 1.0  # exponent of the class means; published with temperature 1: 0.2 on CIFAR-10, 0.4 on CIFAR-100
    temperature: float = 4.0  # of the predictions that the class means collect
    attack_steps: int = 2  # of the attack; the published larger budget is 5 steps of half the radius
    step_share: float = 1.0  # length of a step over the radius, which grows with the epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class AdrSettings:
    """ADR's constants (Wu et al. 2024, arXiv:2305.12118), for the objectives "adr" and "adr-trades"."""

    tau: Shares = (2.0, 1.0)  # first and last temperature of the teacher's prediction
    lam: Shares = (0.7, 0.95)  # first and last lambda: the largest share of the teacher in a label
    decay: float = 0.995  # of the teacher, an average of the weights, per step


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """Adversarial training as DM-AT does it."""

    epochs: int = 400  # of epoch_images each
    batch_size: int = 512  # images in a step, real and synthetic, of all processes together
    epoch_images: int | None = None  # images that make an epoch; None: as many as there are real ones
    synthetic_fraction: float = 0.7  # share of synthetic images in a batch, for the methods that use them
    optimizer: Literal["sgd", "lion", "adamw"] = "sgd"  # sgd with Nesterov momentum
    lr: float = 0.2  # highest learning rate
    momentum: float = 0.9  # of SGD, where the schedule does not cycle it
    weight_decay: float = 5e-4  # times the rate for lion and adamw
    # what does not decay: "batchnorm", parameters so named (DM-AT); "vectors", those of one axis, positions and tokens
    undecayed: Literal["batchnorm", "vectors"] = "batchnorm"
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"  # one-cycle: per epoch (DM-AT); cosine: per step, down to 0
    cycle_momentum: bool = True  # SGD's momentum from 0.95 to 0.85 and back, against the one-cycle rate
    warmup: float = 0.025  # share of the training with rising rate; DM-AT's average starts after it
    averaging: Literal["dm-at", "ema"] = "dm-at"  # of the weights: a copy at first and slow later, or tau throughout
    tau: float = 0.995  # decay of the weight average per step
    objective: ObjectiveName = "trades"  # what a step minimises; methods that name one (at+ikl) go before it
    beta: float = 5.0  # weight of TRADES' robust term
    label_smoothing: float = 0.1  # in the natural cross-entropy only
    norm: Literal["linf", "l2"] = "linf"  # of the training attack's ball
    eps: float = 8 / 255  # radius of the training attack, in [0, 1] pixel units
    step_size: float = 2 / 255  # of the training attack
    attack_steps: int = 10  # of the training attack
    joint_forward: bool = False  # natural and adversarial images in one pass: faster, other batch statistics
    ikl: IklSettings = field(default_factory=IklSettings)
    adr: AdrSettings = field(default_factory=AdrSettings)
    crop_padding: int = 4  # zero pixels around the image before the random crop
    flip: bool = True  # mirror left and right at random
    rotation_degrees: float = 0.0  # largest angle of a random rotation (CIFAR-100: 15)
    cutout: int = 0  # side of a random square that is set to zero
    resized_crop: Shares | None = None  # range of the area of a random part that is stretched to the image's size
    validate_every: int = 1  # epochs between two selections of the best average; 0 takes the last
    validation_steps: int = 40  # of the selecting attack: PGD on the margin
    validation_batch: int = 512  # images attacked at a time; changes nothing

    def __post_init__(self) -> None:
        at_least(self, "training.", epochs=1, batch_size=1, attack_steps=1, validation_steps=1, validation_batch=1)
        within(self, "training.", lr="positive", step_size="positive")
        at_least(self, "training.", eps=0, beta=0, weight_decay=0, crop_padding=0, validate_every=0)
        at_least(self, "training.", rotation_degrees=0, cutout=0)
        require(
            self.norm == "l2" or self.eps <= 1,
            f"training.eps is in units of [0, 1] pixels, got {self.eps}; divide by 255",
        )
        shares = ("synthetic_fraction", "label_smoothing", "tau", "warmup", "momentum")
        within(self, "training.", **dict.fromkeys(shares, "[0, 1]"))

    @property
    def augmentation(self) -> Augmentation:
        """How training images are varied."""
        return Augmentation(
            resized_crop=ResizedCrop(scale=self.resized_crop) if self.resized_crop else None,
            crop_padding=self.crop_padding,
            flip=self.flip,
            rotation_degrees=self.rotation_degrees,
            cutout=self.cutout,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentSettings:
    """Diffusion representation alignment (Eq. 3 and 4, Appendix D of the DRA paper)."""

    weight: float = 1.2  # lambda, the weight of the alignment term
    # the frozen network that gives the features; "encoder": that of Appendix E
    target: Literal["edm", "lightningdit", "encoder", "network"] = "edm"
    # "lightningdit": its checkpoint; "encoder": a noisy-input classifier; "network": any network with features
    checkpoint: str | None = None
    autoencoder: str | None = None  # "lightningdit": checkpoint of the VA-VAE
    latent_statistics: str | None = None  # "lightningdit": checkpoint of the latents' normalisation
    sigma: float = 0.1  # noise level of the EDM features, in EDM's units (images in [-1, 1])
    # where in the U-Net the features are taken; the bottleneck is the output of the last middle block
    layer: Literal["enc_last", "mid_in0", "bottleneck", "before_up"] = "bottleneck"
    # a second representation of each image at a random level; "auto": where more than 1 M synthetic images are used
    random_level: Literal["auto", "yes", "no"] = "auto"
    time: float = 0.8  # of the LightningDiT features; 0 is noise, 1 the image
    blocks: int = 14  # blocks of LightningDiT that are run
    zero_channels: tuple[int, ...] = (1053, 259)  # massive channels of the released LightningDiT, set to zero
    label: Literal["class", "null"] = "class"  # whether the target is told the label
    hidden: int = 2048  # width of the three-layer projection head
    precision: Literal["float32", "bf16"] = "float32"  # of the frozen target

    def __post_init__(self) -> None:
        at_least(self, "alignment.", weight=0, hidden=1, blocks=1)
        within(self, "alignment.", sigma="positive", time="(0, 1]")
        needed = {"edm": (), "lightningdit": ("checkpoint", "autoencoder", "latent_statistics")}.get(
            self.target, ("checkpoint",)
        )
        for name in needed if self.weight else ():
            require(
                bool(getattr(self, name)),
                f"alignment.target={self.target} needs alignment.{name}: the path of a checkpoint (apps/convert.py "
                "makes it from the official file)",
            )
