"""Settings and recipes of `train_dra.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from rp_attacks.radii import check_radius
from rp_dra.alignment_settings import FROM_EDM
from rp_dra.encoder_settings import EncoderSettings
from rp_dra.settings import (
    METHODS,
    WITHOUT_NATURAL,
    AlignmentSettings,
    ClassifierSettings,
    Method,
    TrainingSettings,
    objective_name,
    uses_alignment,
    uses_synthetic,
)
from rp_models.data.catalog import describe
from rp_models.settings import ComputeSettings, EdmSettings, SamplingSettings, at_least, require

from rp_experiments.recipes.table import recipes

AttackName = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
AUTOATTACK: tuple[AttackName, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")  # the standard version, in its order


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """How the trained classifiers are judged: on the whole test split, by AutoAttack's four attacks."""

    norm: Literal["linf", "l2"] = "linf"  # of the ball
    eps: float = 8 / 255  # radius, in [0, 1] pixel units
    attacks: tuple[AttackName, ...] = AUTOATTACK  # fewer are quicker, and no AutoAttack figure any more
    images: int | None = None  # only that many test images; None for all
    # which ones: the field's fixed draw, or RobustBench's first ones, of ImageNet among its 5,000
    order: Literal["drawn", "robustbench"] = "drawn"
    batch_size: int = 128  # images attacked at a time
    probes: int = 32  # images on which signs of masked gradients are looked for, by SPSA among others; 0 for none
    neighbours: int = 10  # k of CKNNA

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps, what="evaluation.eps")
        require(len(self.attacks) > 0, f"evaluation.attacks must name at least one of {', '.join(AUTOATTACK)}")
        at_least(self, "evaluation.", images=1, batch_size=1, probes=0, neighbours=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticSettings(SamplingSettings):
    """Synthetic images: from files, or drawn by the run from its diffusion model."""

    # .npz files in DM-AT's layout, WebDataset's tar files, folders or patterns of either, or folders of pictures (one a
    # class, or with a dataset.json); none: drawn by the run
    paths: tuple[str, ...] = ()
    image_size: int | None = None  # of the images in the files; None for the data set's own


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainDra:
    """Everything that determines a run's numbers."""

    data: str = "digits"  # a data set of the catalogue, or the path of an .npz or a class folder
    train_images: int | None = None  # only that many training images, drawn once and for all; None for all
    method: tuple[Method, ...] = ("standard", "dm-at", "dm-at+dra")  # one or several, compared with each other
    seed: int = 0  # of everything: weights, batches, noise, attacks; the same for each method
    threads: int | None = None  # of torch on a CPU; None for all cores. Another number moves results by rounding
    edm: EdmSettings = field(default_factory=EdmSettings)
    diffusion_model: Annotated[str | None, tyro.conf.arg(name="edm")] = None  # given by file or name, not trained
    synthetic: SyntheticSettings = field(default_factory=SyntheticSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)  # of the classifiers' training
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    encoder: EncoderSettings = field(
        default_factory=EncoderSettings
    )  # for alignment.target=encoder, trained by the run
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        info, halvings = describe(self.data), len(self.edm.channel_mult) - 1
        size, shape = info.image_size, (info.channels, info.image_size, info.image_size)
        check_radius(self.training.norm, self.training.eps, shape=shape, what="training.eps")
        check_radius(self.evaluation.norm, self.evaluation.eps, shape=shape, what="evaluation.eps")
        require(
            not self.trains_diffusion_model or size % 2**halvings == 0,
            f"edm.channel_mult has {halvings + 1} resolutions, but {size} pixels cannot be halved {halvings} times",
        )
        require(len(self.method) > 0, f"method must name at least one of {', '.join(METHODS)}")
        require(len(set(self.method)) == len(self.method), f"method names one twice: {' '.join(self.method)}")
        at_least(self, threads=1, train_images=1)
        require(
            not self.uses_synthetic or bool(self.synthetic.paths) or self.synthetic.images >= 1,
            "the dm-at methods need synthetic images; set synthetic.images to at least 1",
        )
        for method in filter(uses_alignment, self.method if self.alignment.needs_natural else ()):
            name = objective_name(self.training.objective, method)
            require(
                name not in WITHOUT_NATURAL,
                f"the objective {name} makes no pass of natural images, whose features alignment.images or "
                "alignment.consistency asks for; take trades or ikl",
            )

    @property
    def uses_synthetic(self) -> bool:
        """Whether a method trains on synthetic images."""
        return any(uses_synthetic(method) for method in self.method)

    @property
    def uses_alignment(self) -> bool:
        """Whether a method aligns features."""
        return any(uses_alignment(method) for method in self.method) and self.alignment.aligns

    @property
    def needs_diffusion_model(self) -> bool:
        """Whether an EDM model takes part: it draws images, or is the alignment's target."""
        drawn = self.uses_synthetic and not self.synthetic.paths
        return drawn or (self.uses_alignment and self.alignment.target in FROM_EDM and not self._has_encoder)

    @property
    def makes_target(self) -> bool:
        """Whether the run trains the network of its alignment's target: none is given."""
        trained = self.alignment.target in ("encoder", "network") and self.alignment.checkpoint is None
        return self.uses_alignment and trained

    @property
    def _has_encoder(self) -> bool:
        return self.alignment.target == "encoder" and self.alignment.checkpoint is not None

    @property
    def trains_diffusion_model(self) -> bool:
        """Whether the run has to train the EDM model itself."""
        return self.needs_diffusion_model and self.diffusion_model is None


RECIPES = recipes("dra", TrainDra)
