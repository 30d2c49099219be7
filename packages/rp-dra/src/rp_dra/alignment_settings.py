"""Settings of the alignment: what features are pulled towards, by which loss, how strongly; does not import torch.

Source: Eq. 3 and 4, Section 5.6, Appendices D and E of the DRA paper. What goes beyond it names its own source.
"""

from dataclasses import dataclass, field
from typing import Literal

from rp_models.settings import Precision, at_least, require, within

from rp_dra.classifier_settings import ClassifierSettings

TargetName = Literal[
    "edm", "untrained-edm", "lightningdit", "sit", "encoder", "network", "untrained-network", "pretrained-network"
]
LATENT = ("lightningdit", "sit")  # diffusion models of an autoencoder's latents
FROM_EDM = ("edm", "untrained-edm", "encoder")  # targets that are, or are built like, the run's EDM network
AlignmentLoss = Literal["cosine", "tokens", "similarity", "distance", "cka"]
RELATIONAL = ("similarity", "distance", "cka")  # losses about pairs of images, without a head
Feature = Literal["enc_last", "mid_in0", "bottleneck", "before_up"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentSettings:
    """Diffusion representation alignment (Eq. 3 and 4, Appendix D of the DRA paper), and controls of it."""

    weight: float = 1.2  # lambda, the weight of the alignment term
    final_weight: float | None = None  # the weight at the end of the training; None: the same throughout
    weight_schedule: Literal["linear", "cosine"] = "cosine"  # how the weight goes from the first to the last
    # share of the training after which the term is left out (Wang et al. 2025, arXiv:2505.16792, stop theirs early)
    stop: float = 1.0
    # weight of one more term: minus the cosine of the classifier's own features of adversarial and of natural images,
    # the latter held fixed; a regulariser without a target
    consistency: float = 0.0
    images: Literal["adversarial", "natural", "both"] = "adversarial"  # whose features are aligned
    # "cosine": pooled features through the head (the paper); "tokens": the same at every position; without a head:
    # "similarity" (Tung and Mori 2019), "distance" (Park et al. 2019), "cka" (Kornblith et al. 2019)
    loss: AlignmentLoss = "cosine"
    positions: str | None = None  # loss=tokens: the classifier's module whose maps are aligned; None: the last one
    target_positions: str | None = None  # the same of a target network
    # the frozen network that gives the features. "untrained-edm": the EDM network with fresh weights; "encoder": the
    # noisy-input classifier of Appendix E; "network": a checkpoint with features; "untrained-network",
    # "pretrained-network": the network of `alignment.network`, fresh or with its pre-trained weights
    target: TargetName = "edm"
    # "lightningdit", "sit": its checkpoint; "encoder", "network": the classifier's, by default one that the run trains
    checkpoint: str | None = None
    network: ClassifierSettings = field(default_factory=ClassifierSettings)  # of the last two targets
    image_size: int | None = None  # of the images that a network is shown, scaled to it; None: the data set's
    noise: float = 0.0  # standard deviation of Gaussian noise on a network's images, in [0, 1] pixel units
    # whose features an image gets: its own, another's of the batch ("all"), another's of the same class ("class")
    shuffle: Literal["no", "all", "class"] = "no"
    autoencoder: str | None = None  # of latent models: checkpoint of VA-VAE or SD-VAE
    latent_statistics: str | None = None  # of latent models: the latents' normalisation; "sit": by default SD-VAE's
    # noise levels of the EDM features, in EDM's units (images in [-1, 1]); several stand side by side
    sigma: tuple[float, ...] = (0.1,)
    # where in the U-Net the features are taken, one place or several; the bottleneck is the last middle block's output
    layer: tuple[Feature, ...] = ("bottleneck",)
    # a second representation of each image at a random level; "auto": where more than 1 M synthetic images are used
    random_level: Literal["auto", "yes", "no"] = "auto"
    shared_head: bool = False  # one head for both representations
    time: tuple[float, ...] = (0.8,)  # of the features of latent models, one or several; 0 is noise, 1 the image
    blocks: tuple[int, ...] = (14,)  # blocks of a latent model that are run, one number or several
    zero_channels: tuple[int, ...] = (1053, 259)  # massive channels of the released LightningDiT, set to zero
    # whose norm and modulation LightningDiT's features get: the next block's, the last one's, or no one's
    modulated_by: Literal["next", "same", "none"] = "next"
    zero_at: Literal["before_norm", "after_norm"] = "before_norm"  # where the massive channels are set to zero
    latent: Literal["mean", "sample"] = "mean"  # of the autoencoder's posterior
    noise_in: Literal["latent", "pixels", "none"] = "latent"  # of latent models: where the noise is added
    label: Literal["class", "null"] = "class"  # whether the target is told the label
    hidden: int = 2048  # width of the three-layer projection head
    precision: Precision = "fp32"  # of the frozen target

    def __post_init__(self) -> None:
        at_least(self, "alignment.", weight=0, final_weight=0, consistency=0, noise=0, hidden=1, image_size=1)
        within(self, "alignment.", stop="[0, 1]")
        for name in ("sigma", "layer", "time", "blocks"):
            values = getattr(self, name)
            require(len(values) > 0, f"alignment.{name} needs at least one value")
            require(len(set(values)) == len(values), f"alignment.{name} names a value twice: {values}")
        require(min(self.sigma) > 0, f"alignment.sigma must be positive, got {self.sigma}")
        require(min(self.blocks) >= 1, f"alignment.blocks must be at least 1, got {self.blocks}")
        require(min(self.time) > 0 and max(self.time) <= 1, f"alignment.time must be in (0, 1], got {self.time}")
        if self.aligns:
            self._check_target()

    @property
    def aligns(self) -> bool:
        """Whether features are aligned with the target's at any time of the training."""
        return (self.weight > 0 or (self.final_weight or 0) > 0) and self.stop > 0

    @property
    def needs_natural(self) -> bool:
        """Whether features of natural images take part, of which the objective has to make a pass."""
        return self.consistency > 0 or (self.aligns and self.images != "adversarial")

    @property
    def pairs(self) -> bool:
        """Whether the loss looks at pairs of a batch's images, which micro-batches would take apart."""
        return self.loss in RELATIONAL or self.shuffle != "no"

    def _check_target(self) -> None:
        both = ("checkpoint", "autoencoder")
        needed: dict[str, tuple[str, ...]] = {"lightningdit": (*both, "latent_statistics"), "sit": both}
        for name in needed.get(self.target, ()):
            require(
                bool(getattr(self, name)),
                f"alignment.target={self.target} needs alignment.{name}: the path of a checkpoint (apps/convert.py "
                "makes it from the official file)",
            )
        require(
            self.target != "pretrained-network" or bool(self.network.pretrained),
            "alignment.target=pretrained-network needs alignment.network.pretrained: a file, or timm",
        )
