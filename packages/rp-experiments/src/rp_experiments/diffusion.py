"""Diffusion models as samplers of images, seen to fit their data set and settings before any work."""

import torch
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data import DatasetInfo, describe
from rp_models.data.datasets import DataError
from rp_models.diffusion.samplers import ImageSampler, LatentDecoder, sampler_of
from rp_models.foreign import is_foreign
from rp_models.loading import load_network
from rp_models.networks.vae import AutoencoderKL, LatentNormalization
from torch import nn

from rp_experiments.recipes.generate import Generation

SD_VAE = 0.18215  # what Stable Diffusion's latents, of 4 channels, are multiplied by


def data_of(checkpoint: str) -> str:
    """The data set that a checkpoint says it was trained on; "" if it says nothing, or one that is not known."""
    name = "" if is_foreign(checkpoint) else str(read_header(checkpoint).notes.get("data", ""))
    try:
        describe(name)
    except ValueError:
        return ""
    return name


def build_sampler(checkpoint: str, model: nn.Module, config: Generation, device: torch.device) -> ImageSampler:
    """The sampler of a checkpoint's model, with the decoder of its latents."""
    try:
        decoder = _decoder(config, device) if config.vae else None
        return sampler_of(model, heun=config.heun, flow=config.flow, decoder=decoder)
    except TypeError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    except ValueError as error:
        raise DataError(f"{checkpoint}: {error}") from error


def _decoder(config: Generation, device: torch.device) -> LatentDecoder:
    vae = load_network(config.vae).to(device)
    if not isinstance(vae, AutoencoderKL):
        raise CheckpointError(f"{config.vae}: expected an autoencoder, the checkpoint is a {type(vae).__name__}")
    if config.latents:
        latents = load_network(config.latents).to(device)
        if not isinstance(latents, LatentNormalization):
            raise CheckpointError(f"{config.latents}: expected the latents' statistics, found {type(latents).__name__}")
    elif vae.latent_channels == 4:
        latents = LatentNormalization(4, SD_VAE).to(device)
    else:
        raise DataError(f"latents of {vae.latent_channels} channels need their statistics; name them with --latents")
    return LatentDecoder(vae, latents)


def check_sampler(checkpoint: str, sampler: ImageSampler, config: Generation, info: DatasetInfo | None) -> None:
    """Refuse settings that do not suit the model."""
    shape, classes = sampler.image_shape, sampler.num_classes
    if info is not None and shape != (info.channels, info.image_size, info.image_size):
        raise DataError(
            f"{checkpoint} makes images {shape} (c, h, w), not those of {info.name}; name others with --data"
        )
    if info is not None and classes not in (0, info.num_classes):
        raise DataError(f"{checkpoint} knows {classes} classes, {info.name} has {info.num_classes}")
    if config.class_list and classes == 0:
        raise DataError(f"{checkpoint} knows no classes; leave out --classes and --labels")
    if max(config.class_list, default=0) >= max(classes, 1):
        raise DataError(f"{checkpoint} knows the classes 0..{classes - 1}, got {max(config.class_list)}")
