"""Recipes of `compare_purifiers.py`; importing this does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, cast

import tyro
from rp_attacks.settings import Budget as SuiteBudget
from rp_models.data.catalog import describe
from rp_models.settings import InferenceSettings, at_least, require
from rp_purify.settings import PurifierSettings, settings_of

from rp_experiments.recipes.authors_attacks import Protocol
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.pretrain_settings import (
    Pretrain,
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
    PretrainNim,
)
from rp_experiments.recipes.table import changed, read, recipes

SHARED = ("steps", "eot", "curved_steps", "curved_eot", "draws", "queries", "plain_queries", "query_passes")
"""Settings of both budgets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How hard each row of the table is attacked in the maximum norm; the defaults are those of the field."""

    eps: float = 8 / 255  # radius, in [0, 1] pixel units
    step_size: float | None = None  # of PGD, in [0, 1] pixel units; None for 2.5 eps / steps
    steps: int = 200  # of PGD and APGD
    eot: int = 20  # passes of a random purifier whose gradients are averaged
    curved_steps: int = 200  # of PGD through the backward rules that differentiate twice, which cost several times more
    curved_eot: int = 20  # passes averaged there
    draws: int = 10  # noises of a random purifier that each step of the selective attack draws
    surrogate_steps: int = 5  # denoising steps a round of the shortened purifier that images are transferred from
    queries: int = 1000  # of Square
    plain_queries: int | None = None  # of Square without a purifier, each a single pass; None for `queries`
    query_passes: int = 20  # of a random purifier for each query
    # the authors' own attacks (column "as published") take at most so many steps, and passes a gradient
    published_steps: int = 1000
    published_eot: int = 1000
    passes: int = 20  # that report, and as many others that select the worst attack; for a random purifier

    def __post_init__(self) -> None:
        require(0 < self.eps <= 1, f"budget.eps must be in (0, 1] pixel units, got {self.eps}; divide by 255")
        at_least(self, "budget.", **dict.fromkeys((*SHARED, "published_steps", "published_eot", "passes"), 1))
        require(
            self.step_size is None or 0 < self.step_size <= 1,
            f"budget.step_size must be in (0, 1] pixel units, got {self.step_size}; divide by 255",
        )

    def of_suite(self) -> SuiteBudget:
        """The budget of the suite "purifier"."""
        return SuiteBudget(step_size=self.step_size, **{name: getattr(self, name) for name in SHARED})


_ROWS = read("rows")
TITLES: dict[str, str] = {name: row["title"] for name, row in _ROWS.items()}
PROTOCOLS: dict[str, Protocol] = {
    name: Protocol(**row["published"]) for name, row in _ROWS.items() if "published" in row
}
"""How the authors of a row's purifier attacked it."""
NOTES: dict[str, str] = {name: row["note"] for name, row in _ROWS.items() if "note" in row}
"""What a row is of the method that it stands for, where it is not all of it."""
NETWORKS = {
    "classifier": "the one that is defended",
    "mae": "a masked autoencoder",
    "nim": "an autoencoder of noisy images",
    "dmae": "an autoencoder of noisy images with hidden patches",
    "maskdit": "a MaskDiT without classes",
    "edm": "a denoiser without classes",
    "rmae": "mae, robustly fine-tuned through sign steps",
    "rmaskdit": "maskdit, robustly fine-tuned through sign steps",
    "rmae_once": "mae, robustly fine-tuned through one reconstruction",
    "rmaskdit_once": "maskdit, robustly fine-tuned through one denoising step",
    "atop": "mae, fine-tuned as AToP does, on FGSM against the classifier",
    "adbm": "edm, tuned by ADBM's bridge against the classifier",
    "addt": "edm, tuned by ADDT's perturbed denoising against the classifier",
}
"""The networks of the rows, by role."""
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {name: row["tried"] for name, row in _ROWS.items() if "tried" in row}
"""What `--tune` tries on the validation split, for each row of a purifier that has settings."""


def _purifier(row: str) -> PurifierSettings:
    return settings_of(**_ROWS[row]["purifier"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The purifier of each row, its networks named by their roles.

    See `NETWORKS`.
    """

    none: PurifierSettings = field(default_factory=partial(_purifier, "none"))
    noise: PurifierSettings = field(default_factory=partial(_purifier, "noise"))
    mae_reconstruction: PurifierSettings = field(default_factory=partial(_purifier, "mae_reconstruction"))
    rmae_reconstruction: PurifierSettings = field(default_factory=partial(_purifier, "rmae_reconstruction"))
    atop: PurifierSettings = field(default_factory=partial(_purifier, "atop"))
    nim: PurifierSettings = field(default_factory=partial(_purifier, "nim"))
    dmae: PurifierSettings = field(default_factory=partial(_purifier, "dmae"))
    maskdit_denoise: PurifierSettings = field(default_factory=partial(_purifier, "maskdit_denoise"))
    rmaskdit_denoise: PurifierSettings = field(default_factory=partial(_purifier, "rmaskdit_denoise"))
    soap: PurifierSettings = field(default_factory=partial(_purifier, "soap"))
    adp: PurifierSettings = field(default_factory=partial(_purifier, "adp"))
    diffpure: PurifierSettings = field(default_factory=partial(_purifier, "diffpure"))
    diffpure_published: PurifierSettings = field(default_factory=partial(_purifier, "diffpure_published"))
    gradual: PurifierSettings = field(default_factory=partial(_purifier, "gradual"))
    gdmp: PurifierSettings = field(default_factory=partial(_purifier, "gdmp"))
    coup: PurifierSettings = field(default_factory=partial(_purifier, "coup"))
    likelihood: PurifierSettings = field(default_factory=partial(_purifier, "likelihood"))
    scoreopt_n: PurifierSettings = field(default_factory=partial(_purifier, "scoreopt_n"))
    adbm: PurifierSettings = field(default_factory=partial(_purifier, "adbm"))
    addt: PurifierSettings = field(default_factory=partial(_purifier, "addt"))
    mae_pure: PurifierSettings = field(default_factory=partial(_purifier, "mae_pure"))
    maskdit_pure: PurifierSettings = field(default_factory=partial(_purifier, "maskdit_pure"))
    rmae_pure_once: PurifierSettings = field(default_factory=partial(_purifier, "rmae_pure_once"))
    rmaskdit_pure_once: PurifierSettings = field(default_factory=partial(_purifier, "rmaskdit_pure_once"))
    rmae_pure: PurifierSettings = field(default_factory=partial(_purifier, "rmae_pure"))
    rmaskdit_pure: PurifierSettings = field(default_factory=partial(_purifier, "rmaskdit_pure"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that determines the table."""

    data: str = "digits"  # a data set of the catalogue; its test split is attacked
    only: tuple[str, ...] = ()  # rows to evaluate, such as none mae-pure, in that order; by default all
    compared: tuple[str, ...] = ("mae_pure", "rmae_pure")  # rows that all others are compared with, image by image
    images: int | None = 100  # only that many test images, the field's fixed draw; None for all
    # run every attack alone, on every image and at its full length, for an accuracy of its own: about twice the passes;
    # else each attack meets the images still standing, goes on from what the ones before it found, and is shown with
    # the accuracy left after it
    exhaustive: bool = False
    seed: int = 0  # of attacks, masks, noise and verdicts
    batch_size: int = 100  # images attacked at a time; changes no number
    block_size: int = 50  # images of a saved block, the unit of resuming
    probes: int = 0  # images on which signs of masked gradients are looked for; dear for iterative purifiers
    convergence: int = 100  # the most passes of the figure that shows how many a gradient needs; 0 for no figure
    compute: InferenceSettings = field(default_factory=InferenceSettings)  # of the networks that are attacked
    classifier: str = ""  # checkpoint of the classifier; by default a standard one is trained
    mae: str = ""  # of the masked autoencoder, a file or a shipped name; by default pre-trained
    nim: str = ""  # of the autoencoder of noisy images (NIM-MAE); by default pre-trained
    dmae: str = ""  # of the autoencoder of noisy images with hidden patches (DMAE); by default pre-trained
    maskdit: str = ""  # of the MaskDiT; by default pre-trained
    edm: str = ""  # of an unconditional EDM network; by default pre-trained
    pretrain_classifier: PretrainClassifier = field(default_factory=PretrainClassifier)
    pretrain_mae: PretrainMae = field(default_factory=PretrainMae)
    pretrain_nim: PretrainNim = field(default_factory=PretrainNim)
    pretrain_dmae: PretrainNim = field(default_factory=PretrainNim)
    pretrain_maskdit: PretrainMaskDit = field(default_factory=PretrainMaskDit)
    pretrain_edm: PretrainEdm = field(default_factory=PretrainEdm)
    finetune_mae: Finetuning = field(default_factory=Finetuning)  # makes rmae
    finetune_maskdit: Finetuning = field(default_factory=Finetuning)  # makes rmaskdit
    finetune_mae_once: Finetuning = field(default_factory=Finetuning)  # makes rmae_once
    finetune_maskdit_once: Finetuning = field(default_factory=Finetuning)  # makes rmaskdit_once
    finetune_atop: Finetuning = field(default_factory=Finetuning)
    finetune_adbm: Finetuning = field(default_factory=partial(Finetuning, kind="adbm"))
    finetune_addt: Finetuning = field(default_factory=partial(Finetuning, kind="addt"))
    budget: Budget = field(default_factory=Budget)
    rows: Rows = field(default_factory=Rows)
    # further rows by name: the settings that a row (`of`) is changed in, or those of a kind; for recipes
    variants: tyro.conf.Fixed[Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    # further networks by role: what the settings of another one's training (`of`) are changed in; for recipes
    networks: tyro.conf.Fixed[Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The rows to evaluate, and to show, in the order of `only`, or all that are known."""
        return tuple(dict.fromkeys(name.replace("-", "_") for name in self.only)) or self.known

    @property
    def known(self) -> tuple[str, ...]:
        """All rows, the variants last."""
        return (*(row.name for row in fields(Rows)), *self.variants)

    def purifier(self, row: str) -> PurifierSettings:
        """The purifier of a row or a variant."""
        if row not in self.variants:
            found: PurifierSettings = getattr(self.rows, row)
            return found
        changes = dict(self.variants[row])
        return replace(self.purifier(changes.pop("of")), **changes) if "of" in changes else settings_of(**changes)

    def made(self, role: str) -> Pretrain | Finetuning | None:
        """What makes the network of a role that is not given; None for any other name, such as a file's."""
        if pretraining := getattr(self, f"pretrain_{role}", None):
            return cast(Pretrain, pretraining)
        if role in self.networks:
            changes = dict(self.networks[role])
            return cast(Pretrain | Finetuning, changed(getattr(self, changes.pop("of")), changes))
        return cast(Finetuning | None, getattr(self, f"finetune_{role.removeprefix('r')}", None))

    def __post_init__(self) -> None:
        describe(self.data)
        named = {name.replace("-", "_") for name in (*self.only, *self.compared)}
        unknown = sorted(named - set(self.known))
        names = ", ".join(row.replace("_", "-") for row in self.known)
        require(not unknown, f"only and compared must name rows of {names}, got {' '.join(unknown)}")
        at_least(self, batch_size=1, block_size=1, images=8, probes=0, convergence=0)


def title(row: str) -> str:
    """What a row is called in tables."""
    return TITLES.get(row, row.replace("_", " "))


RECIPES = recipes("compare_purifiers", Comparison)
