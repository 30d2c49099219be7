"""Alignment targets from settings: a checkpoint's network, or the diffusion model of a run, made a frozen target."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar

import torch
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data import DatasetInfo
from rp_models.data.datasets import DataError
from rp_models.diffusion.encoder_classifier import NoisyClassifier
from rp_models.foreign import is_foreign
from rp_models.loading import load_network
from rp_models.networks.lightningdit import LightningDiT
from rp_models.networks.normalization import IMAGENET
from rp_models.networks.sit import SiT
from rp_models.networks.vae import AutoencoderKL, LatentNormalization
from rp_models.training.seeding import seeded
from rp_models.zoo import Recipe, build_entry
from torch import nn

from rp_dra.alignment_settings import LATENT, AlignmentSettings, Feature
from rp_dra.classifier import build_classifier
from rp_dra.positions import Maps
from rp_dra.targets.edm import EdmTarget, EncoderTarget
from rp_dra.targets.latent import LightningDitTarget, SitTarget
from rp_dra.targets.module import JoinedTarget, ModuleTarget
from rp_dra.targets.target import FrozenTarget

MANY = 1_000_000  # with more synthetic images the paper takes a second representation of each image
Network = TypeVar("Network", bound=nn.Module)


def alignment_target(
    settings: AlignmentSettings,
    denoiser: nn.Module | None,
    device: torch.device,
    *,
    synthetic: int = 0,
    info: DatasetInfo | None = None,
    seed: int = 0,
) -> FrozenTarget:
    """The frozen features that a method aligns its classifier with.

    Args:
        denoiser: the run's EDM network, for the targets that are made of it.
        device: where to compute; "meta" looks at files and sizes alone.
        synthetic: synthetic images that the method trains on; with many the second representation is on ("auto").
        info: of the images, for a target that is built for them.
        seed: of the weights of untrained targets.

    Raises:
        CheckpointError: if a checkpoint is missing, or of another kind.
        ValueError: if the settings leave open what has to be known here.
    """
    second = settings.random_level == "yes" or (settings.random_level == "auto" and synthetic > MANY)
    target = _target(settings, denoiser, device, second, info, seed)
    target.positions = settings.loss == "tokens"
    return target


def _target(
    settings: AlignmentSettings,
    denoiser: nn.Module | None,
    device: torch.device,
    second: bool,
    info: DatasetInfo | None,
    seed: int,
) -> FrozenTarget:
    if settings.target in LATENT:
        return _latent(settings, device, second)
    if settings.target in ("edm", "untrained-edm"):
        if denoiser is None:
            raise ValueError(f"the target {settings.target} needs a denoiser")
        return _edm(settings, denoiser if settings.target == "edm" else fresh(denoiser, seed), second)
    if settings.target in ("untrained-network", "pretrained-network"):
        return _built(settings, device, info, seed)
    if settings.checkpoint is None:
        raise ValueError(f"the target {settings.target} needs alignment.checkpoint")
    if settings.target == "encoder":
        return EncoderTarget(_load(NoisyClassifier, settings.checkpoint, device), precision=settings.precision)
    return _network(settings, _load(nn.Module, settings.checkpoint, device))


def fresh(network: nn.Module, seed: int, **changes: Any) -> nn.Module:
    """A network of the zoo with the architecture of another one, changed in some arguments, and fresh weights."""
    recipe = network.recipe
    assert isinstance(recipe, Recipe)
    with seeded(seed, "untrained target"):
        return build_entry(recipe.name, **{**recipe.arguments, **changes}).to(next(network.parameters()).device)


def _edm(settings: AlignmentSettings, denoiser: nn.Module, second: bool) -> FrozenTarget:
    """One place and noise level, or several side by side."""

    def at(layer: Feature, sigma: float, second: bool) -> EdmTarget:
        options: dict[str, Any] = {"label": settings.label, "precision": settings.precision}
        return EdmTarget(denoiser, sigma=sigma, layer=layer, random_level=second, **options)

    places = list(product(settings.layer, settings.sigma))
    if len(places) == 1:
        return at(*places[0], second)
    return JoinedTarget([at(*place, False) for place in places], random_level=second)


def _built(settings: AlignmentSettings, device: torch.device, info: DatasetInfo | None, seed: int) -> FrozenTarget:
    """A network that is built for the images, with fresh or with its pre-trained weights."""
    if info is None:
        raise ValueError(f"the target {settings.target} needs info, the images' description")
    pretrained = settings.target == "pretrained-network"
    if pretrained:  # made for three channels, as its weights are
        size = settings.image_size or info.image_size
        info = replace(info, channels=3, image_size=size, mean=IMAGENET.mean, std=IMAGENET.std)
    with seeded(seed, "untrained target"), device:
        network = build_classifier(settings.network, info, pretrained=pretrained and device.type != "meta")
    return _network(settings, network.eval(), 3 if pretrained else None)


def _network(settings: AlignmentSettings, network: nn.Module, channels: int | None = None) -> ModuleTarget:
    tokens = settings.loss == "tokens"
    return ModuleTarget(
        Maps(network, settings.target_positions) if tokens else _Features(network),
        sigma=settings.noise,
        image_size=settings.image_size,
        channels=channels,
        precision=settings.precision,
    )


class _Features(nn.Module):
    """The pooled features of a network that has them, otherwise its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forward: Callable[..., Any] = getattr(network, "forward_features", network)


def _latent(settings: AlignmentSettings, device: torch.device, second: bool) -> FrozenTarget:
    """One time and depth of a latent model, or several side by side."""
    kind = LightningDiT if settings.target == "lightningdit" else SiT
    parts: Any = (
        _load(kind, settings.checkpoint, device),
        _load(AutoencoderKL, settings.autoencoder, device),
        LatentNormalization(4, 0.18215).to(device)  # SD-VAE's
        if settings.latent_statistics is None
        else _load(LatentNormalization, settings.latent_statistics, device),
    )
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("latent", "noise_in", "label", "precision")}
    if settings.target == "lightningdit":
        modulated_by = None if settings.modulated_by == "none" else settings.modulated_by
        options |= {"modulated_by": modulated_by, "zero_at": settings.zero_at, "zero_channels": settings.zero_channels}
    target = LightningDitTarget if settings.target == "lightningdit" else SitTarget
    try:
        places = list(product(settings.time, settings.blocks))
        made = [
            target(*parts, t=t, blocks=blocks, random_level=second and len(places) == 1, **options)
            for t, blocks in places
        ]
    except CheckpointError:
        raise
    except ValueError as error:
        raise DataError(f"alignment: {error}") from error
    return made[0] if len(made) == 1 else JoinedTarget(made, random_level=second)


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
