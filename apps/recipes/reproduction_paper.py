"""The MAE-Pure paper's own networks and settings for `reproduce.py --scale paper`; does not import torch.

Source: Section 5.1, Appendices D and L, Tables 13 and 14 of the MAE-Pure paper. What it leaves open is marked in the
recipes of the networks and in `rp_purify.presets`.
"""

from dataclasses import replace
from functools import partial

from rp_purify.presets import EPS, FINETUNE_EPOCHS, Variant, preset
from rp_purify.settings import FinetuneSettings

from recipes.analyze_purifier import PurifierAnalysis
from recipes.compare_purifiers import Budget, Comparison, Rows
from recipes.finetuning import AttackSettings, DescentSettings, Finetuning
from recipes.pretrain import CLASSIFIER_RECIPES, EDM_RECIPES, MAE_RECIPES, MASKDIT_RECIPES
from recipes.purification import PurifierChoice

EPS_L2_IMAGENET = 0.5
_TRAIN_IMAGES = {"cifar10": 48_976, "cifar100": 48_976, "svhn": 72_233, "imagenet": 1_271_167}
_IMAGENET_ROWS = ("none", "mae_pure", "rmae_pure")  # MaskDiT and EDM are latent or small there: no purifier of pixels


def paper_comparison(data: str) -> Comparison:
    """Every purifier of Tables 1 to 4 before the paper's classifier, 512 images, 200 steps and 20 passes a gradient."""
    small = data != "imagenet"
    classifier = CLASSIFIER_RECIPES[data]()
    if not small:
        classifier = replace(classifier, standard=replace(classifier.standard, network="resnet101"))
    source = data if small else "cifar10"  # ImageNet has no such networks here; its table leaves those rows out
    maskdit, edm = MASKDIT_RECIPES[source](), EDM_RECIPES[source]()
    mae, attack = partial(PurifierChoice, mae="mae"), AttackSettings(eps=EPS[data])
    return Comparison(
        data=data,
        only=("none", "noise", "diffpure", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
        if small
        else _IMAGENET_ROWS,
        images=512,
        batch_size=64,
        block_size=64,
        mae="" if small else "mae-visualize-vit-large.safetensors",  # the official file after convert.py
        pretrain_classifier=classifier,
        pretrain_mae=MAE_RECIPES[data](),
        pretrain_maskdit=replace(maskdit, maskdit=replace(maskdit.maskdit, num_classes=0)),
        pretrain_edm=replace(edm, edm=replace(edm.edm, conditional=False)),
        finetune_mae=Finetuning(
            data=data,
            mae="mae",
            classifier="classifier",
            attack=attack,
            finetune=_finetuning(data, "rmae"),
            descent=_descent(data, "rmae"),
        ),
        finetune_maskdit=Finetuning(
            data=data,
            kind="maskdit",
            maskdit="maskdit",
            classifier="classifier",
            attack=attack,
            finetune=_finetuning(data, "rmaskdit"),
            descent=_descent(data, "rmaskdit"),
        ),
        budget=Budget(eps=EPS[data]),
        rows=Rows(
            noise=mae(kind="noise", std=0.25),
            diffpure=mae(kind="diffpure", model="edm"),
            mae_pure=PurifierChoice(kind="mae-pure", mae="mae", **preset(data, "mae")),
            rmae_pure=PurifierChoice(kind="mae-pure", mae="rmae", **preset(data, "rmae")),
            maskdit_pure=mae(kind="maskdit-pure", model="maskdit", **preset(data, "maskdit")),
            rmaskdit_pure=mae(kind="maskdit-pure", model="rmaskdit", **preset(data, "rmaskdit")),
        ),
    )


def paper_purifier_analysis() -> PurifierAnalysis:
    """Figures 1, 2, 4, 6 and 7 on CIFAR-10: 150 images, half of the patches hidden."""
    return PurifierAnalysis(data="cifar10", eps=EPS["cifar10"], images=150, descent=_descent("cifar10", "mae"))


def _finetuning(data: str, variant: Variant) -> FinetuneSettings:
    steps = FINETUNE_EPOCHS[variant][data] * (_TRAIN_IMAGES[data] // 128)
    return FinetuneSettings(steps=steps, mask_rate=0.75 if variant == "rmae" else 0.5)


def _descent(data: str, variant: Variant) -> DescentSettings:
    return DescentSettings(**preset(data, variant))
