"""A purifier from its settings, with the checkpoints that they name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from rp_models.checkpoint import CheckpointError
from rp_models.data import DatasetInfo
from rp_models.data.datasets import DataError
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.loading import load_denoiser, load_mae, load_maskdit, load_network
from rp_models.networks.vae import AutoencoderKL
from rp_models.precision import in_precision
from rp_models.settings import Precision
from torch import nn

from rp_purify.adp import ADP
from rp_purify.coup import COUP
from rp_purify.ddim_purify import DDIMPurify
from rp_purify.diffpure import DiffPure
from rp_purify.edm_purify import EDMPurify
from rp_purify.gdmp import GDMP
from rp_purify.gradual import GradualPurify
from rp_purify.latent_maskdit import LatentMaskDiTPure
from rp_purify.mae_pure import MAEPure
from rp_purify.maskdit_pure import MaskDiTPure
from rp_purify.nim import NIMReconstruction
from rp_purify.purifier import Purifier
from rp_purify.random_steps import RandomSteps
from rp_purify.reconstruct import GaussianNoise, MAEReconstruction, NoPurification, OneStepDenoise
from rp_purify.resized import Resized
from rp_purify.scoreopt import LikelihoodMaximisation, ScoreOptN
from rp_purify.settings import (
    KINDS,
    MaskDiTPureSettings,
    PurifierSettings,
    uses,
)
from rp_purify.settings.base import ROLES
from rp_purify.settings.rivals import LatentMaskDiTPureSettings, SOAPSettings
from rp_purify.soap import SOAP, LabelConsistency, Reconstruction, Rotation

_PURIFIERS: dict[str, Callable[..., Purifier]] = {
    "mae-pure": MAEPure,
    "mae-reconstruction": MAEReconstruction,
    "nim": NIMReconstruction,
    "denoise": OneStepDenoise,
    "diffpure": DiffPure,
    "likelihood": LikelihoodMaximisation,
    "gradual": GradualPurify,
    "adbm": DDIMPurify,
    "edm-purify": EDMPurify,
    "coup": COUP,
    "gdmp": GDMP,
    "scoreopt-n": ScoreOptN,
    "adp": ADP,
    "noise": GaussianNoise,
    "random-steps": RandomSteps,
    "none": NoPurification,
}
_NAMES = {  # of settings whose argument is called otherwise
    "mae-reconstruction": {"noise_std": "std"},
    "diffpure": {"reverse_steps": "steps"},
    "coup": {"reverse_steps": "steps"},
    "likelihood": {"levels": "sigma"},
    "gradual": {"max_times": "times", "round_steps": "steps", "ddim_eta": "eta"},
    "adbm": {"table": "schedule"},
    "adp": {"std": "sigma"},
}
_GUIDED = ("coup", "soap")


def build_purifier(
    settings: PurifierSettings,
    info: DatasetInfo,
    device: torch.device | str,
    *,
    classifier: nn.Module | None = None,
    precision: Precision = "fp32",
) -> Purifier:
    """The purifier of these settings, for this data set's images, in eval mode.

    Args:
        classifier: the one that shall be defended, which COUP and SOAP ask.
        precision: of the products in its networks; see `rp_models.precision.in_precision`.

    Raises:
        CheckpointError: if a checkpoint cannot be read or is of another kind.
        DataError: if it does not suit the images, a setting does not suit it, or the classifier is missing.
    """
    if settings.kind in _GUIDED and classifier is None:
        raise DataError(
            f"purifier.kind {settings.kind} asks the classifier that it defends: name its checkpoint with "
            "--classifier, or give it to build_purifier"
        )
    try:
        purifier = _build(settings, info, classifier).to(device).eval()
    except (CheckpointError, DataError):
        raise
    except ValueError as error:  # a purifier's own check of its settings against the network
        raise DataError(f"purifier {settings.kind}: {error}") from error
    _in_precision(purifier, precision)
    return purifier


def _in_precision(purifier: nn.Module, precision: Precision) -> None:
    """Let the networks of a purifier compute in a precision."""
    for network in purifier.children():
        if isinstance(network, Purifier):
            _in_precision(network, precision)
        elif any(True for _ in network.parameters()):
            in_precision(network, precision)


def _build(settings: PurifierSettings, info: DatasetInfo, classifier: nn.Module | None) -> Purifier:
    match settings:
        case MaskDiTPureSettings():
            return purifier_around(settings, load_maskdit(settings.model, info))
        case LatentMaskDiTPureSettings():
            return purifier_around(settings, *_latent_networks(settings))
        case SOAPSettings():
            assert classifier is not None
            loss = _auxiliary(settings, classifier)
            return SOAP(classifier, loss, **_arguments(settings, "auxiliary", step_size="step", radii="levels"))
    size = getattr(settings, "resize", None)
    networks: list[nn.Module] = []
    if hasattr(settings, "mae"):
        networks.append(load_mae(settings.mae, info))
    elif hasattr(settings, "model"):
        networks.append(load_denoiser(settings.model, info if size is None else replace(info, image_size=size)))
    if settings.kind == "coup" and classifier is not None:
        networks.append(classifier)
    return purifier_around(settings, *networks)


def purifier_around(settings: PurifierSettings, *networks: Any) -> Purifier:
    """The purifier of these settings around networks that are there, whatever files the settings name.

    Raises TypeError for settings of no purifier, and for those of SOAP, which asks a classifier.
    """
    match settings:
        case MaskDiTPureSettings():
            sigma = settings.sigmas or settings.sigma
            return MaskDiTPure(*networks, **{**_arguments(settings, "sigmas"), "sigma": sigma})
        case LatentMaskDiTPureSettings():
            return LatentMaskDiTPure(*networks, **_arguments(settings))
    make, size = _PURIFIERS.get(settings.kind), getattr(settings, "resize", None)
    if make is None or type(settings) is not KINDS.get(settings.kind):
        raise TypeError(f"there is no purifier for {type(settings).__name__}")
    purifier = make(*networks, **_arguments(settings, "resize", **_NAMES.get(settings.kind, {})))
    return purifier if size is None else Resized(purifier, size)


def _arguments(settings: PurifierSettings, *others: str, **renamed: str) -> dict[str, Any]:
    """The settings as arguments of the purifier; those that are None keep its default, unless None means something."""
    kept = {name: getattr(settings, name) for name in uses(settings.kind) if name not in (*ROLES, *others)}
    return {renamed.get(name, name): value for name, value in kept.items() if value is not None or name == "eta"}


def _latent_networks(settings: LatentMaskDiTPureSettings) -> tuple[MaskDiT, AutoencoderKL]:
    """The MaskDiT and the autoencoder of its latents."""
    maskdit, autoencoder = load_network(settings.model), load_network(settings.autoencoder)
    if not isinstance(maskdit, MaskDiT):
        raise CheckpointError(f"{settings.model}: expected a MaskDiT, this is a {type(maskdit).__name__}")
    if not isinstance(autoencoder, AutoencoderKL):
        raise CheckpointError(
            f"{settings.autoencoder}: expected an autoencoder, this is a {type(autoencoder).__name__}"
        )
    return maskdit, autoencoder


def _auxiliary(settings: SOAPSettings, classifier: nn.Module) -> nn.Module:
    """The self-supervised loss, in eval mode."""
    if settings.auxiliary == "pi":
        return LabelConsistency(classifier)
    network = load_network(settings.auxiliary_model)
    return Rotation(network) if settings.auxiliary == "rot" else Reconstruction(network)
