"""Alignment targets from settings: a checkpoint's network, or the diffusion model of a run, made a frozen target."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data.datasets import DataError
from rp_models.foreign import is_foreign
from rp_models.loading import load_network
from rp_models.networks.lightningdit import LightningDiT
from rp_models.networks.vae import AutoencoderKL, LatentNormalization
from rp_models.zoo import build_entry
from torch import nn

from rp_dra.diffusion_encoder import NoisyClassifier, load_encoder
from rp_dra.settings import AlignmentSettings
from rp_dra.targets.edm import EdmTarget, EncoderTarget
from rp_dra.targets.latent import LightningDitTarget
from rp_dra.targets.module import ModuleTarget
from rp_dra.targets.target import FrozenTarget

MANY = 1_000_000  # with more synthetic images the paper takes a second representation of each image
Network = TypeVar("Network", bound=nn.Module)


def alignment_target(
    settings: AlignmentSettings, denoiser: nn.Module | None, device: torch.device, *, synthetic: int = 0
) -> FrozenTarget:
    """The frozen features that a method aligns its classifier with.

    Args:
        denoiser: the run's EDM network, for `target="edm"`.
        device: where to compute; "meta" looks at files and sizes alone.
        synthetic: synthetic images that the method trains on; with many the second representation is on ("auto").

    Raises:
        CheckpointError: if a checkpoint is missing, or of another kind.
    """
    second = settings.random_level == "yes" or (settings.random_level == "auto" and synthetic > MANY)
    if settings.target == "edm":
        if denoiser is None:
            raise ValueError("the target edm needs a denoiser")
        return EdmTarget(
            denoiser,
            sigma=settings.sigma,
            layer=settings.layer,
            label=settings.label,
            random_level=second,
            precision=settings.precision,
        )
    assert settings.checkpoint is not None, "AlignmentSettings"
    if settings.target == "encoder":
        encoder = load_encoder(settings.checkpoint, device="cpu" if device.type == "meta" else device)
        if not isinstance(encoder, NoisyClassifier):
            raise CheckpointError(f"{settings.checkpoint}: expected a NoisyClassifier, found {type(encoder).__name__}")
        return EncoderTarget(encoder, precision=settings.precision)
    if settings.target == "network":
        return ModuleTarget(_Features(_load(nn.Module, settings.checkpoint, device)), precision=settings.precision)
    return _lightningdit(settings, device, second)


class _Features(nn.Module):
    """The pooled features of a network that has them, otherwise its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forward: Callable[..., Any] = getattr(network, "forward_features", network)


def _lightningdit(settings: AlignmentSettings, device: torch.device, second: bool) -> LightningDitTarget:
    try:
        return LightningDitTarget(
            _load(LightningDiT, settings.checkpoint, device),
            _load(AutoencoderKL, settings.autoencoder, device),
            _load(LatentNormalization, settings.latent_statistics, device),
            t=settings.time,
            blocks=settings.blocks,
            zero_channels=settings.zero_channels,
            label=settings.label,
            random_level=second,
            precision=settings.precision,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise DataError(f"alignment: {error}") from error


def _load(kind: type[Network], name: str | None, device: torch.device) -> Network:
    assert name is not None, "AlignmentSettings"
    if device.type != "meta":
        network = load_network(name).to(device)
    elif is_foreign(name):
        network = load_network(name)
    else:
        header = read_header(name)
        with device:
            network = build_entry(header.architecture, **header.arguments)
    if not isinstance(network, kind):
        raise CheckpointError(f"{name}: expected a {kind.__name__}, the checkpoint is a {type(network).__name__}")
    return network
