"""Recipes of `train_dra.py`; importing this does not import torch."""

from rp_experiments.recipes.dra_settings import TrainDra as TrainDra
from rp_experiments.recipes.table import recipes

RECIPES = recipes("dra", TrainDra)
