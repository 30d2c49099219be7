"""Recipes of `train_dra.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rp_dra.settings import METHODS, AlignmentSettings, ClassifierSettings, Method, TrainingSettings
from rp_models.data.catalog import describe
from rp_models.settings import EdmSettings, SamplingSettings, require


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """How the trained classifiers are judged: on the whole test split, by AutoAttack's four attacks."""

    eps: float = 8 / 255  # Linf radius, in [0, 1] pixel units
    images: int | None = None  # only that many test images, drawn once and for all; None for all
    batch_size: int = 128  # images attacked at a time
    probes: int = 32  # images on which signs of masked gradients are looked for, by SPSA among others; 0 for none
    neighbours: int = 10  # k of CKNNA

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"evaluation.eps must be in [0, 1] pixel units, got {self.eps}; divide by 255")
        require(self.images is None or self.images >= 1, f"evaluation.images must be at least 1, got {self.images}")
        require(self.batch_size >= 1, f"evaluation.batch_size must be at least 1, got {self.batch_size}")
        require(self.probes >= 0, f"evaluation.probes must not be negative, got {self.probes}")
        require(self.neighbours >= 2, f"evaluation.neighbours must be at least 2, got {self.neighbours}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainDra:
    """Everything that determines a run's numbers."""

    data: str = "digits"  # a data set of the catalogue
    method: tuple[Method, ...] = ("standard", "dm-at", "dm-at+dra")  # one or several, compared with each other
    seed: int = 0  # of everything: weights, batches, noise, attacks; the same for each method
    threads: int | None = None  # of torch on a CPU; None for all cores. Another number moves results by rounding
    edm: EdmSettings = field(default_factory=EdmSettings)
    synthetic: SamplingSettings = field(default_factory=SamplingSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        size, halvings = describe(self.data).image_size, len(self.edm.channel_mult) - 1
        require(
            size % 2**halvings == 0,
            f"edm.channel_mult has {halvings + 1} resolutions, but {size} pixels cannot be halved {halvings} times",
        )
        require(len(self.method) > 0, f"method must name at least one of {', '.join(METHODS)}")
        require(len(set(self.method)) == len(self.method), f"method names one twice: {' '.join(self.method)}")
        require(self.threads is None or self.threads >= 1, f"threads must be at least 1, got {self.threads}")
        uses_synthetic = any(method.startswith("dm-at") for method in self.method)
        require(
            not uses_synthetic or self.synthetic.images >= 1,
            "the dm-at methods need synthetic images; set synthetic.images to at least 1",
        )


def digits() -> TrainDra:
    """The embedded 8x8 digits: all parts of the method at a size for two CPU cores and a few minutes.

    The budget is 0.15 (2.4 of 16 grey levels). No convention exists for these images: at this radius the standard
    classifier is as good as helpless, while people still read the perturbed digits, so the test separates the two.
    """
    eps = 0.15
    return TrainDra(
        data="digits",
        threads=1,  # a second one gains a quarter on these sizes, and loses far more when the machine is busy
        edm=EdmSettings(
            model_channels=24,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(4,),
            dropout=0.0,
            steps=700,
            batch_size=64,
            lr=3e-3,
            rampup_images=6_400,
            ema_half_life=20_000,
        ),
        synthetic=SamplingSettings(images=1_500, steps=10, batch_size=250),
        classifier=ClassifierSettings(depth=10, width=1),
        training=TrainingSettings(
            epochs=24,
            batch_size=128,
            synthetic_fraction=0.5,
            eps=eps,
            step_size=eps / 4,
            crop_padding=1,
            flip=False,
            tau=0.98,
            validate_every=5,
            validation_steps=20,
        ),
        alignment=AlignmentSettings(hidden=256),
        evaluation=EvaluationSettings(eps=eps, batch_size=300, probes=0),
    )


def smoke() -> TrainDra:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = digits()
    return replace(
        base,
        edm=replace(base.edm, model_channels=8, steps=3, batch_size=16),
        synthetic=replace(base.synthetic, images=20, steps=2),
        classifier=replace(base.classifier, width=1),
        training=replace(base.training, epochs=2, batch_size=32, epoch_images=64, attack_steps=2, validation_steps=2),
        alignment=replace(base.alignment, hidden=16),
        evaluation=replace(base.evaluation, images=12, neighbours=3),
    )


RECIPES: dict[str, Callable[[], TrainDra]] = {"digits": digits, "smoke": smoke}
