"""Purifiers from settings."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from rp_models.diffusion.maskdit import MaskDiT
from rp_models.networks.mae import MaskedAutoencoder
from rp_purify import (
    MAEPure,
    MAEReconstruction,
    MAEView,
    MaskDiTPure,
    MaskDiTView,
    OneStepDenoise,
    Purifier,
    SignDescent,
)

from rp_experiments.recipes.finetuning import Finetuning

Masked = MaskedAutoencoder | MaskDiT
OneShot = MAEReconstruction | OneStepDenoise


class Purifiers(NamedTuple):
    """The forms in which robust fine-tuning uses one network.

    Attributes:
        one_shot: one reconstruction or denoising step.
        trained: what is trained through: that, or a few sign steps that have a derivative.
        descent: MAE-Pure or MaskDiT-Pure, which is judged.
        view: how AMV looks at images.
    """

    one_shot: OneShot
    trained: Purifier
    descent: SignDescent
    view: MAEView | MaskDiTView


def purifiers_around(model: Masked, config: Finetuning) -> Purifiers:
    """The purifiers around one network.

    Raises:
        ValueError: if a setting does not suit the network.
    """
    rate = config.descent.mask_rate
    one_shot: OneShot
    pure: Callable[..., SignDescent]
    view: MAEView | MaskDiTView
    if isinstance(model, MaskedAutoencoder):
        one_shot = MAEReconstruction(model, mask_rate=config.one_shot_mask_rate)
        pure = partial(MAEPure, model)
        view = MAEView(model=model, mask_rate=rate)
    else:
        one_shot = OneStepDenoise(model, sigma=config.sigma)
        pure = partial(MaskDiTPure, model, sigma=config.sigma)
        view = MaskDiTView(model=model, sigma=config.sigma, mask_rate=rate)
    trained = one_shot if config.through == "one-shot" else pure(**asdict(config.unrolled), grad="ste-tanh")
    return Purifiers(one_shot, trained, pure(**asdict(config.descent)), view)
