"""The networks of `analyze_purifier.py`: those that look at images, purifiers around them, the attacked classifier."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_models import noise
from rp_models.data import DatasetInfo, load_images
from rp_models.data.datasets import DataError
from rp_models.loading import load_mae, load_maskdit
from rp_models.training import ProgressBar, RunFolder
from rp_purify import MAEPure, MAEView, MaskDiTPure, MaskDiTView, SignDescent
from torch import nn

from rp_experiments.perturbed import train_standard
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis

Views = dict[str, MAEView | MaskDiTView]


def open_views(config: PurifierAnalysis, info: DatasetInfo, device: torch.device) -> Views:
    """The networks that were named, each with the masks that belong to the seed.

    Raises:
        CheckpointError, DataError: if one cannot be used.
    """
    options: dict[str, Any] = {"mask_rate": config.mask_rate, "seed": noise.derive_seed(config.seed, "view")}
    views: Views = {}
    for name, file in (("MAE", config.mae), ("RMAE", config.rmae)):
        if file:
            views[name] = MAEView(model=load_mae(file, info).to(device), **options)
    for name, file in (("MaskDiT", config.maskdit), ("RMaskDiT", config.rmaskdit)):
        if file:
            views[name] = MaskDiTView(model=load_maskdit(file, info).to(device), sigma=config.sigma, **options)
    return views


def purifier_around(name: str, view: MAEView | MaskDiTView, config: PurifierAnalysis) -> SignDescent:
    """MAE-Pure or MaskDiT-Pure around a network, with the settings of its name.

    Raises:
        DataError: if its settings do not fit the network.
    """
    descent = asdict(config.descent_of(name.lower()))
    try:
        if isinstance(view, MAEView):
            return MAEPure(view.model, **descent)
        return MaskDiTPure(view.model, **descent, sigma=config.sigma)
    except ValueError as error:
        raise DataError(f"purifier: {error}") from error


def standard_classifier(
    config: PurifierAnalysis, folder: RunFolder, device: torch.device, *, root: Path | None, progress: ProgressBar
) -> nn.Module:
    """A classifier trained on clean images, from the folder or trained now."""
    product = folder.path / "checkpoints" / "standard.safetensors"
    if not product.exists():
        train = load_images(config.data, "train", root=root).to(device)
        classifier = train_standard(train, config, progress)
        rp_models.save(classifier, product, notes={"data": config.data, "seed": config.seed})
    return rp_models.load(product, device=device)
