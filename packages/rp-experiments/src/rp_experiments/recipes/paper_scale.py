"""The MAE-Pure paper's own networks and settings for `reproduce.py --scale paper`; does not import torch.

Source: Section 5.1, Appendices D and L, Tables 13 and 14 of the MAE-Pure paper. What it leaves open is marked in the
recipes of the networks and in `rp_purify.presets`.
"""

from dataclasses import replace
from functools import partial
from typing import Any, Literal

from rp_attacks.radii import pgd200_step
from rp_models.settings import ComputeSettings, InferenceSettings
from rp_purify.presets import EPS, FINETUNE_EPOCHS, Variant, preset
from rp_purify.rival_presets import RIVALS
from rp_purify.settings import (
    ADBMTuningSettings,
    ADDTTuningSettings,
    DiffPureSettings,
    FinetuneSettings,
    MAEPureSettings,
    MaskDiTPureSettings,
    PurifierSettings,
    settings_of,
)

from rp_experiments.recipes import compare_purifiers, finetuning
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis
from rp_experiments.recipes.compare_purifiers import Budget, Comparison, Rows
from rp_experiments.recipes.finetuning import AttackSettings, DescentSettings, Finetuning
from rp_experiments.recipes.pretrain_settings import (
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
    PretrainNim,
)
from rp_experiments.recipes.table import recipe

DIFFPURE_TIMES = {"imagenet": 150}  # t* of DiffPure in thousandths, Nie et al. 2022; 100 elsewhere
_ATTACKED = InferenceSettings(precision="tf32")
_TRAIN_IMAGES = {"cifar10": 48_976, "cifar100": 48_976, "svhn": 72_233, "imagenet": 1_271_167}
_RIVALS: tuple[tuple[str, str, dict[str, str]], ...] = (  # row, its preset, its network
    ("nim", "nim", {"mae": "nim"}),
    ("soap", "soap", {}),
    ("adp", "adp", {"model": "edm"}),
    ("diffpure_published", "diffpure", {"model": "edm"}),
    ("gradual", "gradual", {"model": "edm"}),
    ("gdmp", "gdmp", {"model": "edm"}),
    ("coup", "coup", {"model": "edm"}),
    ("likelihood", "scoreopt-o", {"model": "edm"}),
    ("scoreopt_n", "scoreopt-n", {"model": "edm"}),
    ("adbm", "adbm", {"model": "adbm"}),
    ("addt", "addt-edm", {"model": "addt"}),
)
_TUNED = ComputeSettings(precision="tf32")  # of what differentiates sign steps twice
_OWN_LOSS: dict[Variant, float] = {"rmae": 3.0, "rmaskdit": 1.0}  # mu: a MaskDiT's own loss is many times an MAE's
_STEPS_TRAINED_THROUGH: dict[Variant, int] = {"rmae": 4, "rmaskdit": 3}


def paper_comparison(data: str) -> Comparison:
    """Every purifier of Tables 1 to 4 before the paper's classifier, 512 images, 200 steps and 20 passes a gradient.

    ImageNet's networks see the classifier's 224 pixels. Its MaskDiT works on pixels in patches of 16, as Table 13 has
    it, with the published network's width and depth; asked for an unmasked image it is also DiffPure's denoiser, in
    place of the guided-diffusion network of 256 pixels that the paper's row has. The other authors' purifiers have
    their own settings, and networks tuned by their own trainings, where there are some for the data set.

    The paper names no step size of PGD. It follows ADBM, whose attack takes 0.007 at radius 8/255 and half of that at
    4/255 (Li et al. 2024, arXiv:2408.00315). Without a purifier Square has AutoAttack's 5,000 queries. Attacks run in
    TF32; on eight images the signs of their gradients are compared with those of float32.
    """
    imagenet, rivals = data == "imagenet", _rivals(data)
    networks, variants = ({}, {}) if imagenet else _pretrained_as_used(data)
    own = ("diffpure", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
    return Comparison(
        data=data,
        only=("none", "noise", *rivals, *own, *variants),
        networks=networks,
        variants=variants,
        images=512,
        batch_size=64,
        block_size=64,
        probes=8,
        compute=_ATTACKED,
        mae="mae-visualize-vit-large.safetensors" if imagenet else "",  # the official file after convert.py
        budget=Budget(eps=EPS[data], step_size=pgd200_step("linf", EPS[data]), plain_queries=5000),
        rows=_rows(data, rivals),
        **_trainings(data),
    )


def _trainings(data: str) -> dict[str, Any]:
    """How the networks of a comparison are trained."""
    tuned = partial(_finetuning, data)
    return {
        "pretrain_classifier": _classifier(data),
        "pretrain_mae": recipe(PretrainMae, data),
        "pretrain_nim": recipe(PretrainNim, data),
        "pretrain_dmae": recipe(PretrainNim, f"{data}-dmae"),
        "pretrain_maskdit": _maskdit(data),
        "pretrain_edm": PretrainEdm() if data == "imagenet" else _edm(data),
        "finetune_mae": tuned("rmae", "steps"),
        "finetune_maskdit": tuned("rmaskdit", "steps"),
        "finetune_mae_once": tuned("rmae", "one-shot"),
        "finetune_maskdit_once": tuned("rmaskdit", "one-shot"),
        "finetune_atop": _atop(data),
        "finetune_adbm": _tuned(data, "adbm"),
        "finetune_addt": _tuned(data, "addt"),
    }


def _rows(data: str, rivals: dict[str, PurifierSettings]) -> Rows:
    """The purifiers of a comparison, with the settings of Tables 13 and 14."""
    denoiser = "maskdit" if data == "imagenet" else "edm"
    return Rows(
        diffpure=DiffPureSettings(model=denoiser, times=DIFFPURE_TIMES.get(data, 100)),
        mae_pure=MAEPureSettings(mae="mae", **preset(data, "mae")),
        rmae_pure=MAEPureSettings(mae="rmae", **preset(data, "rmae")),
        rmae_pure_once=MAEPureSettings(mae="rmae_once", **preset(data, "rmae")),
        maskdit_pure=MaskDiTPureSettings(model="maskdit", **preset(data, "maskdit")),
        rmaskdit_pure=MaskDiTPureSettings(model="rmaskdit", **preset(data, "rmaskdit")),
        rmaskdit_pure_once=MaskDiTPureSettings(model="rmaskdit_once", **preset(data, "rmaskdit")),
        **rivals,
    )


def _pretrained_as_used(data: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A network and a row: MAE-Pure with an autoencoder that was pre-trained at the mask rate of the descent.

    The public code pre-trains at 0.75, at which the descent of Table 14 never looks.
    """
    rate = preset(data, "mae")["mask_rate"]
    name, changes = f"mae_trained_at_{rate:g}", {"of": "pretrain_mae", "mae": {"mask_rate": rate}}
    return {name: changes}, {f"mae_pure_trained_at_{rate:g}": {"of": "mae_pure", "mae": name}}


def _rivals(data: str) -> dict[str, PurifierSettings]:
    """The rows of the other authors' purifiers that have settings for this data set and a network of its size here."""
    rows: dict[str, PurifierSettings] = {}
    for row, name, network in _RIVALS:
        if data in RIVALS[name] and not (data == "imagenet" and network != {"mae": "nim"}):
            kind, settings = RIVALS[name][data]
            rows[row] = settings_of(kind, **settings, **network)
    return rows


def _tuned(data: str, kind: Literal["adbm", "addt"]) -> Finetuning:
    """ADBM's or ADDT's training as published; SVHN is not mirrored."""
    compute, flip = replace(_TUNED, clip_norm=1.0), data != "svhn"
    eps = EPS[data]
    adbm, addt = ADBMTuningSettings(flip=flip), ADDTTuningSettings(flip=flip)
    return Finetuning(
        data=data, kind=kind, edm="edm", classifier="classifier", attack=AttackSettings(eps=eps), adbm=adbm, addt=addt,
        compute=compute,
    )  # fmt: skip


def _atop(data: str) -> Finetuning:
    """AToP's weights and adversary in robust fine-tuning of the comparison's own autoencoder."""
    tuning = _finetuning(data, "rmae", "one-shot")
    fgsm = AttackSettings(eps=EPS[data], step_size=EPS[data], steps=1, on="classifier", start="clean")
    settings = replace(tuning.finetune, class_weight=0.05, mu=1.0, noise_std=0.0, mask_rate=0.25)
    return replace(
        tuning, attack=fgsm, finetune=settings, one_shot_mask_rate=0.25, one_shot_noise_std=0.25,
        one_shot_keep_visible=True,
    )  # fmt: skip


def paper_finetuning(recipe: str) -> Finetuning:
    """A recipe of `finetune_purifier.py` by its name: cifar10, cifar10-maskdit, cifar10-adbm, cifar10-addt."""
    data, _, kind = recipe.partition("-")
    if kind in ("adbm", "addt"):
        found = _tuned(data, "adbm" if kind == "adbm" else "addt")
    else:
        found = _finetuning(data, "rmaskdit" if kind else "rmae", "steps")
    return replace(found, classifier="", mae="" if not kind else found.mae, maskdit="", edm="")


def paper_purifier_analyses() -> dict[str, PurifierAnalysis]:
    """The data sets of Figures 1 (SVHN), 2 and 8 (ImageNet), 4 (all but SVHN), 6 and 7 (CIFAR-10) and the theorems.

    100 images under AutoAttack, as Section 4.1 says; half of the patches hidden, each network with its own steps.
    """
    return {data: _purifier_analysis(data) for data in ("cifar10", "cifar100", "svhn", "imagenet")}


def _purifier_analysis(data: str) -> PurifierAnalysis:
    others: tuple[Variant, ...] = ("rmae", "maskdit", "rmaskdit")
    return PurifierAnalysis(
        data=data,
        eps=EPS[data],
        images=100,
        attack="autoattack",
        compute=_ATTACKED,
        descent=_descent(data, "mae"),
        descents={variant: _descent(data, variant) for variant in others},
    )


def _classifier(data: str) -> PretrainClassifier:
    """WRN-28-10 of 32 pixels, ResNet-101 of 224."""
    trained = recipe(PretrainClassifier, data)
    if data != "imagenet":
        return trained
    return replace(trained, standard=replace(trained.standard, network="resnet101"))


def _maskdit(data: str) -> PretrainMaskDit:
    """Without classes, which an attack must not be told; on ImageNet at the classifier's resolution."""
    trained = recipe(PretrainMaskDit, data)
    settings = replace(trained.maskdit, num_classes=0)
    if data == "imagenet":
        # the published network has classes, unless its sizes say otherwise
        settings = replace(settings, sizes={**settings.sizes, "image_size": 224, "num_classes": 0})
    return replace(trained, data=data, maskdit=settings)


def _edm(data: str) -> PretrainEdm:
    trained = recipe(PretrainEdm, data)
    return replace(trained, edm=replace(trained.edm, conditional=False))


def _finetuning(data: str, variant: Variant, through: Literal["steps", "one-shot"]) -> Finetuning:
    """Robust fine-tuning of the comparison's own network, through a few sign steps or through one reconstruction.

    The paper leaves open what P_theta in Eq. 6 is: the sign steps themselves have no derivative. On the digits
    RMAE-Pure tuned through one reconstruction was 16 points below MAE-Pure in the worst case, and 17 points above it
    tuned through four sign steps with the rule ste-tanh, which is therefore what makes the tables. As there, the steps
    together go a third farther than the ball reaches; the purifier itself takes those of Tables 13 and 14. The noise of
    Eq. 5 is as large as the ball; Eq. 6 has no term of the network's own loss, whose weight is that of the digits.
    `reproduce.py` tries other values of both on a subset first.
    """
    eps, steps = EPS[data], _STEPS_TRAINED_THROUGH[variant]
    descent = _descent(data, variant)
    return Finetuning(
        data=data,
        kind="mae" if variant == "rmae" else "maskdit",
        mae="mae",
        maskdit="maskdit",
        classifier="classifier",
        through=through,
        attack=AttackSettings(eps=eps),
        finetune=FinetuneSettings(
            steps=FINETUNE_EPOCHS[variant][data] * (_TRAIN_IMAGES[data] // 128),
            mu=_OWN_LOSS[variant],
            noise_std=eps,
            mask_rate=0.75 if variant == "rmae" else 0.5,
        ),
        unrolled=replace(descent, steps=steps, step_size=4 / 3 * eps / steps, halve=False),
        descent=descent,
        compute=_TUNED,
    )


def _descent(data: str, variant: Variant) -> DescentSettings:
    return DescentSettings(**preset(data, variant))


_DATA = ("cifar10", "cifar100", "svhn", "imagenet")
_KINDS = ("", "-maskdit", "-adbm", "-addt")
COMPARISONS = compare_purifiers.RECIPES | {data: partial(paper_comparison, data) for data in _DATA}
"""Recipes of `compare_purifiers.py`: its own, and the papers' data sets, for GPUs."""
_TUNINGS = [data + kind for data in _DATA for kind in _KINDS]
FINETUNINGS = finetuning.RECIPES | {name: partial(paper_finetuning, name) for name in _TUNINGS}
"""Recipes of `finetune_purifier.py`, as well; of the papers' data sets the networks are to be named."""
