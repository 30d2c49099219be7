"""Recipes of `compare_purifiers.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from rp_attacks.settings import Budget as SuiteBudget
from rp_models.data.catalog import describe
from rp_models.settings import require
from rp_purify.settings import (
    DiffPureSettings,
    GaussianNoiseSettings,
    LikelihoodSettings,
    MAEPureSettings,
    MAEReconstructionSettings,
    MaskDiTPureSettings,
    NoPurificationSettings,
    OneStepDenoiseSettings,
    PurifierSettings,
    uses,
)

from rp_experiments.recipes.finetuning import RECIPES as FINETUNING
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.pretrain_settings import (
    CLASSIFIER_RECIPES,
    EDM_RECIPES,
    MAE_RECIPES,
    MASKDIT_RECIPES,
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
)
from rp_experiments.recipes.table import changed

SHARED = ("steps", "eot", "curved_steps", "curved_eot", "queries", "query_passes")  # settings of both budgets


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How hard each row of the table is attacked in the maximum norm; the defaults are those of the field."""

    eps: float = 8 / 255  # radius, in [0, 1] pixel units
    step_size: float | None = None  # of PGD, in [0, 1] pixel units; None for 2.5 eps / steps
    steps: int = 200  # of PGD and APGD
    eot: int = 20  # passes of a random purifier whose gradients are averaged
    curved_steps: int = 200  # of PGD through the backward rules that differentiate twice, which cost several times more
    curved_eot: int = 20  # passes averaged there
    queries: int = 1000  # of Square
    query_passes: int = 20  # of a random purifier for each query
    passes: int = 20  # that report, and as many others that select the worst attack; for a random purifier

    def __post_init__(self) -> None:
        require(0 < self.eps <= 1, f"budget.eps must be in (0, 1] pixel units, got {self.eps}; divide by 255")
        for name in (*SHARED, "passes"):
            require(getattr(self, name) >= 1, f"budget.{name} must be at least 1, got {getattr(self, name)}")
        require(
            self.step_size is None or 0 < self.step_size <= 1,
            f"budget.step_size must be in (0, 1] pixel units, got {self.step_size}; divide by 255",
        )

    def of_suite(self) -> SuiteBudget:
        """The budget of the suite "purifier"."""
        return SuiteBudget(step_size=self.step_size, **{name: getattr(self, name) for name in SHARED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The purifier of each row, its networks named by their roles.

    mae, maskdit, edm: pre-trained. rmae, rmaskdit: robustly fine-tuned through sign steps; rmae_once, rmaskdit_once:
    through one reconstruction or denoising step.
    """

    none: PurifierSettings = field(default_factory=NoPurificationSettings)
    noise: PurifierSettings = field(default_factory=GaussianNoiseSettings)
    mae_reconstruction: PurifierSettings = field(default_factory=partial(MAEReconstructionSettings, mae="mae"))
    rmae_reconstruction: PurifierSettings = field(default_factory=partial(MAEReconstructionSettings, mae="rmae_once"))
    maskdit_denoise: PurifierSettings = field(default_factory=partial(OneStepDenoiseSettings, model="maskdit"))
    rmaskdit_denoise: PurifierSettings = field(default_factory=partial(OneStepDenoiseSettings, model="rmaskdit_once"))
    diffpure: PurifierSettings = field(default_factory=partial(DiffPureSettings, model="edm"))
    likelihood: PurifierSettings = field(default_factory=partial(LikelihoodSettings, model="edm", steps=5))
    mae_pure: PurifierSettings = field(default_factory=partial(MAEPureSettings, mae="mae"))
    maskdit_pure: PurifierSettings = field(default_factory=partial(MaskDiTPureSettings, model="maskdit"))
    rmae_pure_once: PurifierSettings = field(default_factory=partial(MAEPureSettings, mae="rmae_once"))
    rmaskdit_pure_once: PurifierSettings = field(default_factory=partial(MaskDiTPureSettings, model="rmaskdit_once"))
    rmae_pure: PurifierSettings = field(default_factory=partial(MAEPureSettings, mae="rmae"))
    rmaskdit_pure: PurifierSettings = field(default_factory=partial(MaskDiTPureSettings, model="rmaskdit"))


TITLES = {
    "none": "no purifier",
    "noise": "Gaussian noise",
    "mae_reconstruction": "MAE reconstruction",
    "rmae_reconstruction": "RMAE reconstruction",
    "maskdit_denoise": "MaskDiT, one step",
    "rmaskdit_denoise": "RMaskDiT, one step",
    "diffpure": "DiffPure",
    "likelihood": "likelihood maximisation",
    "mae_pure": "MAE-Pure",
    "maskdit_pure": "MaskDiT-Pure",
    "rmae_pure_once": "RMAE-Pure, tuned one-shot",
    "rmaskdit_pure_once": "RMaskDiT-Pure, tuned one-shot",
    "rmae_pure": "RMAE-Pure",
    "rmaskdit_pure": "RMaskDiT-Pure",
}


PURE = ("mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that determines the table."""

    data: str = "digits"  # a data set of the catalogue; its test split is attacked
    only: tuple[str, ...] = ()  # rows to evaluate, such as none mae-pure; by default all
    images: int | None = 100  # only that many test images, the field's fixed draw; None for all
    seed: int = 0  # of attacks, masks, noise and verdicts
    batch_size: int = 100  # images attacked at a time; changes no number
    block_size: int = 50  # images of a saved block, the unit of resuming
    probes: int = 0  # images on which signs of masked gradients are looked for; dear for iterative purifiers
    classifier: str = ""  # checkpoint of the classifier; by default a standard one is trained
    mae: str = ""  # of the masked autoencoder, a file or a shipped name; by default pre-trained
    maskdit: str = ""  # of the MaskDiT; by default pre-trained
    edm: str = ""  # of an unconditional EDM network; by default pre-trained
    pretrain_classifier: PretrainClassifier = field(default_factory=PretrainClassifier)
    pretrain_mae: PretrainMae = field(default_factory=PretrainMae)
    pretrain_maskdit: PretrainMaskDit = field(default_factory=PretrainMaskDit)
    pretrain_edm: PretrainEdm = field(default_factory=PretrainEdm)
    finetune_mae: Finetuning = field(default_factory=Finetuning)  # makes rmae
    finetune_maskdit: Finetuning = field(default_factory=Finetuning)  # makes rmaskdit
    finetune_mae_once: Finetuning = field(default_factory=Finetuning)  # makes rmae_once
    finetune_maskdit_once: Finetuning = field(default_factory=Finetuning)  # makes rmaskdit_once
    budget: Budget = field(default_factory=Budget)
    rows: Rows = field(default_factory=Rows)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The rows to evaluate, in the table's order."""
        only = {name.replace("-", "_") for name in self.only}
        return tuple(row.name for row in fields(Rows) if not only or row.name in only)

    def __post_init__(self) -> None:
        describe(self.data)
        rows = {name.replace("-", "_") for name in self.only}
        unknown = sorted(rows - set(TITLES))
        names = ", ".join(row.replace("_", "-") for row in TITLES)
        require(not unknown, f"only must name rows of {names}, got {' '.join(self.only)}")
        for name in ("batch_size", "block_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.images is None or self.images >= 8, f"images must be at least 8, got {self.images}")
        require(self.probes >= 0, f"probes must not be negative, got {self.probes}")


def finetuned(recipe: str) -> Finetuning:
    """Fine-tuning of the comparison's own networks, named by their roles."""
    return replace(FINETUNING[recipe](), mae="mae", maskdit="maskdit", classifier="classifier")


def digits() -> Comparison:
    """The embedded digits at radius 0.15: an hour on a CPU core, most of it the attacks on the iterative purifiers."""
    eps = 0.15
    mae = MAEPureSettings(mae="mae", steps=10, step_size=0.04, eta=eps, mask_rate=0.5)
    maskdit = MaskDiTPureSettings(model="maskdit", steps=6, step_size=0.04, eta=eps, mask_rate=0.25)
    return Comparison(
        data="digits",
        mae="mae-digits",
        pretrain_classifier=CLASSIFIER_RECIPES["digits"](),
        pretrain_mae=MAE_RECIPES["digits"](),
        pretrain_maskdit=MASKDIT_RECIPES["digits"](),
        pretrain_edm=EDM_RECIPES["digits-unconditional"](),
        finetune_mae=finetuned("digits-steps"),
        finetune_maskdit=finetuned("digits-maskdit-steps"),
        finetune_mae_once=finetuned("digits"),
        finetune_maskdit_once=finetuned("digits-maskdit"),
        budget=Budget(eps=eps, steps=20, eot=3, curved_steps=10, curved_eot=2, queries=100, query_passes=2, passes=8),
        rows=Rows(
            diffpure=DiffPureSettings(model="edm", reverse_steps=5),
            likelihood=LikelihoodSettings(model="edm", steps=3),
            mae_pure=mae,
            rmae_pure=replace(mae, mae="rmae"),
            rmae_pure_once=replace(mae, mae="rmae_once"),
            maskdit_pure=maskdit,
            rmaskdit_pure=replace(maskdit, model="rmaskdit"),
            rmaskdit_pure_once=replace(maskdit, model="rmaskdit_once"),
        ),
    )


def smoke() -> Comparison:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base, tune = digits(), finetuned("smoke")
    few = {"steps": 2, "reverse_steps": 2}
    rows = {row.name: _where_used(getattr(base.rows, row.name), **few) for row in fields(Rows)}
    return replace(
        base,
        images=8,
        pretrain_classifier=CLASSIFIER_RECIPES["smoke"](),
        pretrain_maskdit=MASKDIT_RECIPES["smoke"](),
        pretrain_edm=changed(EDM_RECIPES["smoke"](), {"edm": {"conditional": False}}),
        finetune_mae=replace(tune, through="steps", unrolled=replace(base.finetune_mae.unrolled, steps=1)),
        finetune_maskdit=replace(tune, kind="maskdit", through="steps", unrolled=replace(tune.unrolled, steps=1)),
        finetune_mae_once=tune,
        finetune_maskdit_once=replace(tune, kind="maskdit"),
        budget=replace(base.budget, steps=2, eot=1, curved_steps=1, curved_eot=1, queries=2, query_passes=1, passes=2),
        rows=Rows(**rows),
    )


def fashion_mnist() -> Comparison:
    """Fashion-MNIST at radius 0.1: eight rows on 60 test images, two hours on a CPU core.

    Autoencoder and MaskDiT are those of `weights/`; the MaskDiT, asked without a class, is DiffPure's denoiser too.
    The purifiers' settings are the best of `--tune` on 60 validation images.
    """
    eps = 0.1
    base = digits()
    rows = {row.name: _where_used(getattr(base.rows, row.name), eta=eps, step_size=0.04) for row in fields(Rows)}
    tuned: dict[str, dict[str, Any]] = {
        "noise": {"std": 0.1},  # more leaves nothing of the clean accuracy
        "diffpure": {"times": 200},
        "mae_pure": {"mask_rate": 0.75},
        "maskdit_pure": {"sigma": 0.7},
    }
    rows |= {row: replace(rows[row], **changes) for row, changes in tuned.items()}
    classifier = CLASSIFIER_RECIPES["fashion-mnist"]()
    maskdit, edm = MASKDIT_RECIPES["fashion-mnist"](), EDM_RECIPES["fashion-mnist"]()
    once = finetuned("fashion-mnist")
    once_maskdit = replace(once, kind="maskdit", finetune=replace(once.finetune, lr=2e-4, mu=1.0))
    steps = replace(once, through="steps", unrolled=replace(base.finetune_mae.unrolled, eta=eps, step_size=0.04))
    steps = replace(steps, finetune=replace(steps.finetune, steps=150, batch_size=64, mu=3.0))
    return replace(
        base,
        data="fashion-mnist",
        only=("none", "noise", "mae_reconstruction", "diffpure", *PURE),
        images=60,
        mae="mae-fashion-mnist",
        maskdit="maskdit-fashion-mnist",
        edm="maskdit-fashion-mnist",
        pretrain_classifier=replace(classifier, standard=replace(classifier.standard, steps=600, warmup_steps=100)),
        pretrain_mae=MAE_RECIPES["fashion-mnist"](),
        pretrain_maskdit=replace(maskdit, maskdit=replace(maskdit.maskdit, num_classes=0)),
        pretrain_edm=replace(edm, edm=replace(edm.edm, conditional=False)),
        finetune_mae=steps,
        finetune_maskdit=replace(
            steps,
            kind="maskdit",
            unrolled=replace(steps.unrolled, steps=3, step_size=0.05, mask_rate=0.25),
            finetune=replace(once_maskdit.finetune, steps=100, batch_size=32),
        ),
        finetune_mae_once=once,
        finetune_maskdit_once=once_maskdit,
        budget=replace(base.budget, eps=eps, steps=10, eot=2, curved_steps=5, curved_eot=1, queries=50, passes=4),
        rows=Rows(**rows),
    )


def _where_used(settings: PurifierSettings, **changes: Any) -> PurifierSettings:
    """The settings with those of the changes that their kind has."""
    return replace(settings, **{name: value for name, value in changes.items() if name in uses(settings.kind)})


RECIPES: dict[str, Callable[[], Comparison]] = {"digits": digits, "fashion-mnist": fashion_mnist, "smoke": smoke}

GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "noise": {"std": (0.05, 0.1, 0.25, 0.4)},
    "mae_reconstruction": {"mask_rate": (0.25, 0.5, 0.75)},
    "maskdit_denoise": {"sigma": (0.2, 0.34, 0.7)},
    "diffpure": {"times": (75, 100, 150, 200)},
    "likelihood": {"levels": ((0.4, 0.6), (0.8, 1.2)), "lr": (0.05, 0.1)},
    "mae_pure": {"step_size": (0.01, 0.02, 0.04), "mask_rate": (0.25, 0.5, 0.75)},
    "maskdit_pure": {"step_size": (0.02, 0.04), "sigma": (0.2, 0.34, 0.7), "mask_rate": (0.25, 0.5)},
    "rmae_pure": {"step_size": (0.02, 0.04), "mask_rate": (0.5, 0.75)},
    "rmaskdit_pure": {"step_size": (0.02, 0.04), "sigma": (0.34, 0.7)},
}
"""What `--tune` tries on the validation split, for each row of a purifier that has settings."""
