"""Settings of adversarial training with DRA; the defaults are the papers', and importing this does not import torch.

Sources: Appendix B and D of the DRA paper; Wang et al. 2023, arXiv:2302.04638 (DM-AT) and its published trainer.
"""

from dataclasses import dataclass
from typing import Literal

from rp_models.settings import require

Method = Literal["standard", "at", "at+dra", "dm-at", "dm-at+dra"]
METHODS: dict[Method, str] = {
    "standard": "standard training, not robust: the comparison that shows that the attack works",
    "at": "adversarial training (TRADES) on the real images alone",
    "at+dra": "the same with diffusion representation alignment",
    "dm-at": "adversarial training with diffusion-generated images mixed in",
    "dm-at+dra": "the same with diffusion representation alignment",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierSettings:
    """The classifier: DM-AT's wide ResNet."""

    depth: int = 28  # number of layers, 6 n + 4
    width: int = 10  # widening factor
    activation: Literal["silu", "relu"] = "silu"  # nonlinearity of the whole network
    bn_momentum: float = 0.01  # 1 in the very first step, as in DM-AT

    def __post_init__(self) -> None:
        require(
            self.depth >= 10 and self.depth % 6 == 4, f"classifier.depth must be 6 n + 4 with n >= 1, got {self.depth}"
        )
        require(self.width >= 1, f"classifier.width must be at least 1, got {self.width}")
        require(0 < self.bn_momentum <= 1, f"classifier.bn_momentum must be in (0, 1], got {self.bn_momentum}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """Adversarial training as DM-AT does it."""

    epochs: int = 400  # of epoch_images each
    batch_size: int = 512  # images in a step, real and synthetic
    epoch_images: int | None = None  # images that make an epoch; None: as many as there are real ones
    synthetic_fraction: float = 0.7  # share of synthetic images in a batch, for the methods that use them
    lr: float = 0.2  # peak of the one-cycle schedule, of SGD with Nesterov momentum
    warmup: float = 0.025  # share of the epochs with rising rate; the average starts after it
    weight_decay: float = 5e-4  # not of batch norms
    beta: float = 5.0  # weight of TRADES' robust term
    label_smoothing: float = 0.1  # in the natural cross-entropy only
    eps: float = 8 / 255  # Linf radius of the training attack, in [0, 1] pixel units
    step_size: float = 2 / 255  # of the training attack
    attack_steps: int = 10  # of the training attack
    tau: float = 0.995  # decay of the weight average
    crop_padding: int = 4  # zero pixels around the image before the random crop
    flip: bool = True  # mirror left and right at random
    validate_every: int = 1  # epochs between two selections of the best average; 0 takes the last
    validation_steps: int = 40  # of the selecting attack: PGD on the margin

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "attack_steps", "validation_steps"):
            require(getattr(self, name) >= 1, f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "step_size"):
            require(getattr(self, name) > 0, f"training.{name} must be positive, got {getattr(self, name)}")
        for name in ("eps", "beta", "weight_decay", "crop_padding", "validate_every"):
            require(getattr(self, name) >= 0, f"training.{name} must not be negative, got {getattr(self, name)}")
        require(self.eps <= 1, f"training.eps is in units of [0, 1] pixels, got {self.eps}; divide by 255")
        for name in ("synthetic_fraction", "label_smoothing", "tau", "warmup"):
            require(0 <= getattr(self, name) <= 1, f"training.{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentSettings:
    """Diffusion representation alignment (Eq. 3 and 4, Appendix D of the DRA paper)."""

    weight: float = 1.2  # lambda, the weight of the alignment term
    sigma: float = 0.1  # noise level of the diffusion features, in EDM's units (images in [-1, 1])
    # where in the U-Net the features are taken; the bottleneck is the output of the last middle block
    layer: Literal["enc_last", "mid_in0", "bottleneck", "before_up"] = "bottleneck"
    hidden: int = 2048  # width of the three-layer projection head

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"alignment.weight must not be negative, got {self.weight}")
        require(self.sigma > 0, f"alignment.sigma must be positive, got {self.sigma}")
        require(self.hidden >= 1, f"alignment.hidden must be at least 1, got {self.hidden}")
