"""Purifiers from settings."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import torch
from rp_models.checkpoint import CheckpointError
from rp_models.data import DatasetInfo
from rp_models.data.datasets import DataError
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.loading import load_denoiser, load_mae, load_maskdit
from rp_models.networks.mae import MaskedAutoencoder
from rp_purify import (
    DiffPure,
    GaussianNoise,
    LikelihoodMaximisation,
    MAEPure,
    MAEReconstruction,
    MAEView,
    MaskDiTPure,
    MaskDiTView,
    NoPurification,
    OneStepDenoise,
    Purifier,
    SignDescent,
)

from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.purification import PurifierChoice

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


def build_purifier(settings: PurifierChoice, info: DatasetInfo, device: torch.device) -> Purifier:
    """The purifier of these settings, for this data set's images.

    Raises:
        CheckpointError: if a checkpoint cannot be read or is of another kind.
        DataError: if it does not suit the images, or a setting does not suit it.
    """
    try:
        return _build(settings, info).to(device).eval()
    except (CheckpointError, DataError):
        raise
    except ValueError as error:  # a purifier's own check of its settings against the network
        raise DataError(f"purifier {settings.kind}: {error}") from error


def _build(settings: PurifierChoice, info: DatasetInfo) -> Purifier:
    names = ("steps", "step_size", "eta", "mask_rate", "masks")
    descent: dict[str, Any] = {name: getattr(settings, name) for name in names} | _given(settings, "halve")
    match settings.kind:
        case "none":
            return NoPurification()
        case "noise":
            return GaussianNoise(settings.std)
        case "denoise":
            return OneStepDenoise(load_denoiser(settings.model, info), sigma=settings.sigma)
        case "diffpure":
            denoiser = load_denoiser(settings.model, info)
            return DiffPure(denoiser, times=settings.times, steps=settings.reverse_steps, solver=settings.solver)
        case "likelihood":
            denoiser = load_denoiser(settings.model, info)
            return LikelihoodMaximisation(denoiser, steps=settings.steps, sigma=settings.levels, lr=settings.lr)
        case "mae-reconstruction":
            options = _given(settings, "keep_visible", noise_std="std")
            return MAEReconstruction(load_mae(settings.mae, info), mask_rate=settings.mask_rate, **options)
        case "maskdit-pure":
            options = _given(settings, "schedule", "noise", "mae_weight")
            return MaskDiTPure(
                load_maskdit(settings.model, info), sigma=settings.sigmas or settings.sigma, **descent, **options
            )
        case "mae-pure":
            options = _given(settings, "masks_per_step", "complementary")
            return MAEPure(load_mae(settings.mae, info), **descent, **options)


def _given(settings: PurifierChoice, *names: str, **renamed: str) -> dict[str, Any]:
    """The settings among these that are not left to the purifier, by the names of its arguments."""
    arguments = {**{name: name for name in names}, **renamed}
    values = {argument: getattr(settings, name) for name, argument in arguments.items()}
    return {argument: value for argument, value in values.items() if value is not None}
