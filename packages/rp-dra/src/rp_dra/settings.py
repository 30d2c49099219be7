"""Settings of adversarial training with DRA; the defaults are the papers', and importing this does not import torch.

Sources: Appendix B and D of the DRA paper; Wang et al. 2023, arXiv:2302.04638 (DM-AT) and its published trainer.
"""

from dataclasses import dataclass, field
from typing import Literal

from rp_models.data.augmentation import Augmentation, ResizedCrop
from rp_models.settings import at_least, require, within

from rp_dra.alignment_settings import AlignmentSettings as AlignmentSettings
from rp_dra.classifier_settings import ClassifierSettings as ClassifierSettings

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
WITHOUT_NATURAL: tuple[ObjectiveName, ...] = ("pgd-at", "adr")  # that make no pass of natural images
Shares = tuple[float, float]


def objective_name(objective: ObjectiveName, method: Method | None = None) -> ObjectiveName:
    """The objective of a method where the settings name one: methods that name their own go first."""
    if method == "standard":
        return "standard"
    if method is not None and "+ikl" in method:
        return "ikl"
    if method is not None and "+adr" in method:
        return objective if objective == "adr-trades" else "adr"
    return objective


def uses_synthetic(method: str) -> bool:
    """Whether a method trains on diffusion-generated images."""
    return method.startswith("dm-at")


def uses_alignment(method: str) -> bool:
    """Whether a method aligns features with the diffusion model's."""
    return method.endswith("+dra")


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
class AwpSettings:
    """Adversarial weight perturbation (Wu et al. 2020, arXiv:2004.05884), on top of any adversarial objective."""

    gamma: float = 0.0  # step of each weight towards a higher loss over its own size; 0: none. Published: 0.005, 0.01
    start_epoch: int = 0  # epochs that are trained without it before it starts
    # "original": running statistics and weight decay see the perturbed weights; "restored", ADR's: those as they were
    variant: Literal["original", "restored"] = "original"

    def __post_init__(self) -> None:
        at_least(self, "training.awp.", gamma=0, start_epoch=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """Adversarial training as DM-AT does it."""

    epochs: int = 400  # of epoch_images each
    batch_size: int = 512  # images in a step, real and synthetic, of all processes together
    epoch_images: int | None = None  # images that make an epoch; None: as many as there are real ones
    synthetic_fraction: float = 0.7  # share of synthetic images in a batch, for the methods that use them
    optimizer: Literal["sgd", "lion", "adamw"] = "sgd"  # what takes the steps
    nesterov: bool = True  # whether SGD's momentum is Nesterov's
    lr: float = 0.2  # highest learning rate
    momentum: float = 0.9  # of SGD, where the schedule does not cycle it
    weight_decay: float = 5e-4  # times the rate for lion and adamw
    # what does not decay: "batchnorm", parameters so named (DM-AT); "vectors", those of one axis, positions and tokens
    undecayed: Literal["batchnorm", "vectors", "nothing"] = "batchnorm"
    # one-cycle: per epoch (DM-AT); cosine: per step, down to 0; epoch-cosine: per epoch e of E, as 1 + cos(pi e/(E+1));
    # steps: a tenth of it at each milestone
    schedule: Literal["one-cycle", "cosine", "epoch-cosine", "steps"] = "one-cycle"
    milestones: tuple[float, ...] = (0.5, 0.75)  # of the schedule "steps", as shares of the training
    cycle_momentum: bool = True  # SGD's momentum from 0.95 to 0.85 and back, against the one-cycle rate
    warmup: float = 0.025  # share of the training with rising rate; DM-AT's average starts after it
    # of the weights: "dm-at", a copy at first and slow later; "ema", tau throughout; "ema-all", running statistics too
    # (timm's); "epochs", the same once an epoch (Cui et al.'s)
    averaging: Literal["dm-at", "ema", "ema-all", "epochs"] = "dm-at"
    tau: float = 0.995  # decay of the weight average per step, or per epoch; 0: the last weights themselves
    objective: ObjectiveName = "trades"  # what a step minimises; methods that name one (at+ikl) go before it
    beta: float = 5.0  # weight of TRADES' robust term
    label_smoothing: float = 0.1  # in the natural cross-entropy only
    norm: Literal["linf", "l2"] = "linf"  # of the training attack's ball
    eps: float = 8 / 255  # radius of the training attack, in [0, 1] pixel units
    step_size: float = 2 / 255  # of the training attack
    attack_steps: int = 10  # of the training attack
    attack_mode: Literal["eval", "train"] = "eval"  # of the classifier in PGD-AT's attack; train moves the statistics
    joint_forward: bool = False  # natural and adversarial images in one pass: faster, other batch statistics
    ikl: IklSettings = field(default_factory=IklSettings)
    adr: AdrSettings = field(default_factory=AdrSettings)
    awp: AwpSettings = field(default_factory=AwpSettings)
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
            all(0 < share <= 1 for share in self.milestones),
            f"training.milestones are shares of the training in (0, 1], got {self.milestones}",
        )
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
