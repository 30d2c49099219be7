"""A purifier from its settings, with the checkpoints that they name."""

from typing import Any

import torch
from rp_models.checkpoint import CheckpointError
from rp_models.data import DatasetInfo
from rp_models.data.datasets import DataError
from rp_models.loading import load_denoiser, load_mae, load_maskdit

from rp_purify.diffpure import DiffPure
from rp_purify.mae_pure import MAEPure
from rp_purify.maskdit_pure import MaskDiTPure
from rp_purify.purifier import Purifier
from rp_purify.reconstruct import GaussianNoise, MAEReconstruction, NoPurification, OneStepDenoise
from rp_purify.scoreopt import LikelihoodMaximisation
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
)


def build_purifier(settings: PurifierSettings, info: DatasetInfo, device: torch.device | str) -> Purifier:
    """The purifier of these settings, for this data set's images, in eval mode.

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


def _build(settings: PurifierSettings, info: DatasetInfo) -> Purifier:
    match settings:
        case MAEPureSettings(masks_per_step=number, complementary=both):
            mae = load_mae(settings.mae, info)
            return MAEPure(mae, masks_per_step=number, complementary=both, **_descent(settings))
        case MaskDiTPureSettings(schedule=schedule, noise=noise, mae_weight=weight):
            maskdit, sigma = load_maskdit(settings.model, info), settings.sigmas or settings.sigma
            own: dict[str, Any] = {"sigma": sigma, "schedule": schedule, "noise": noise, "mae_weight": weight}
            return MaskDiTPure(maskdit, **own, **_descent(settings))
        case MAEReconstructionSettings(mask_rate=rate, noise_std=std, keep_visible=keep):
            return MAEReconstruction(load_mae(settings.mae, info), mask_rate=rate, std=std, keep_visible=keep)
        case OneStepDenoiseSettings(sigma=level):
            return OneStepDenoise(load_denoiser(settings.model, info), sigma=level)
        case GaussianNoiseSettings(std=std):
            return GaussianNoise(std)
        case DiffPureSettings(times=times, reverse_steps=steps, solver=solver):
            return DiffPure(load_denoiser(settings.model, info), times=times, steps=steps, solver=solver)
        case LikelihoodSettings(steps=count, levels=levels, lr=lr):
            return LikelihoodMaximisation(load_denoiser(settings.model, info), steps=count, sigma=levels, lr=lr)
        case NoPurificationSettings():
            return NoPurification()
        case _:
            raise TypeError(f"there is no purifier for {type(settings).__name__}")


def _descent(settings: MAEPureSettings | MaskDiTPureSettings) -> dict[str, Any]:
    """What the two kinds of sign descent have in common."""
    names = ("steps", "step_size", "eta", "mask_rate", "masks") + (("halve",) if settings.halve is not None else ())
    return {name: getattr(settings, name) for name in names}
