"""Recipes of `pretrain.py`, by kind; importing this does not import torch."""

from rp_experiments.recipes.pretrain_classifier import RECIPES as CLASSIFIER_RECIPES
from rp_experiments.recipes.pretrain_edm import RECIPES as EDM_RECIPES
from rp_experiments.recipes.pretrain_mae import RECIPES as MAE_RECIPES
from rp_experiments.recipes.pretrain_maskdit import RECIPES as MASKDIT_RECIPES
from rp_experiments.recipes.pretrain_settings import (
    Pretrain,
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
)

__all__ = [
    "CLASSIFIER_RECIPES",
    "EDM_RECIPES",
    "MAE_RECIPES",
    "MASKDIT_RECIPES",
    "Pretrain",
    "PretrainClassifier",
    "PretrainEdm",
    "PretrainMae",
    "PretrainMaskDit",
]
