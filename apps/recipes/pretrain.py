"""Recipes of `pretrain.py`, by kind; importing this does not import torch."""

from recipes.pretrain_classifier import RECIPES as CLASSIFIER_RECIPES
from recipes.pretrain_edm import RECIPES as EDM_RECIPES
from recipes.pretrain_mae import RECIPES as MAE_RECIPES
from recipes.pretrain_maskdit import RECIPES as MASKDIT_RECIPES
from recipes.pretrain_settings import Pretrain, PretrainClassifier, PretrainEdm, PretrainMae, PretrainMaskDit

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
