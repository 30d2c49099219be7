"""The networks behind the alignment's targets that a run makes for itself, once: they are found again in the cache."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rp_models
from rp_dra.alignment_settings import AlignmentSettings, Feature
from rp_dra.encoder_settings import EncoderSettings
from rp_dra.encoder_trainer import NoisyClassifierTrainer
from rp_dra.targets.build import fresh
from rp_models.data import Images
from rp_models.data.datasets import DataError
from rp_models.diffusion.encoder_classifier import NoisyClassifier
from rp_models.diffusion.precondition import Precond
from rp_models.settings import ComputeSettings
from rp_models.training import seeded
from torch import nn

from rp_experiments.content import address
from rp_experiments.networks import made, pretrained
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.standard_classifier import STANDARD
from rp_experiments.run import Run


def noisy_trainer(
    denoiser: nn.Module,
    images: Images,
    settings: EncoderSettings,
    *,
    layer: Feature,
    compute: ComputeSettings,
    run: Run,
    seed: int,
) -> NoisyClassifierTrainer:
    """Trains a diffusion model's encoder with fresh weights, and without labels, which are now what it learns."""
    classes = images.info.num_classes
    with seeded(seed, "noisy encoder"):
        network = fresh(denoiser, seed, label_dim=0)
        assert isinstance(network, Precond)
        model = NoisyClassifier(network, classes, sigma=settings.sigma, layer=layer, head=settings.head)
    return NoisyClassifierTrainer(model, images, settings, compute=compute, processes=run.processes, seed=seed)


def with_checkpoint(config: TrainDra, denoiser: nn.Module | None, images: Images, run: Run) -> AlignmentSettings:
    """The alignment's settings with the checkpoint of its target, trained now or in another run if none is given."""
    settings = config.alignment
    if not config.makes_target:
        return settings
    if settings.target == "network":
        standard = STANDARD[config.data]()
        found = pretrained("classifier", replace(standard, seed=config.seed), run)
    else:
        assert denoiser is not None, "TrainDra.needs_diffusion_model"
        found = _encoder(config, denoiser, images, run)
    return replace(settings, checkpoint=found)


def check(config: TrainDra) -> None:
    """Raise a DataError where the run would have to train a target's network and cannot."""
    settings = config.alignment
    if not config.makes_target:
        return
    if settings.target == "network" and config.data not in STANDARD:
        raise DataError(
            f"--alignment.target network: name a classifier of {config.data} with --alignment.checkpoint; a run trains "
            f"one itself only for {' and '.join(STANDARD)}"
        )
    if settings.target == "encoder" and "before_up" in settings.layer:
        raise DataError(
            "--alignment.target encoder: the features of --alignment.layer before_up lie behind the encoder"
        )


def _encoder(config: TrainDra, denoiser: nn.Module, images: Images, run: Run) -> str:
    """The noisy-input classifier of Appendix E of the DRA paper, with the architecture of the run's diffusion model."""
    recipe: Any = denoiser.recipe
    layer, product = config.alignment.layer[0], "checkpoints/noisy-encoder.safetensors"
    identity = [config.data, len(images), config.seed, asdict(config.encoder), layer, recipe.name, recipe.arguments]
    identity.append(NoisyClassifier.entry)  # what the file holds
    identity += [asdict(config.compute)] if config.compute != ComputeSettings() else []

    def make(inside: Run) -> None:
        inside.claim({"identity": identity})
        trainer = noisy_trainer(
            denoiser, images, config.encoder, layer=layer, compute=config.compute, run=inside, seed=config.seed
        )
        inside.train(trainer, stage="noisy-encoder", steps=trainer.steps, seed=config.seed)
        inside.first(lambda: rp_models.save(trainer.average, inside.path / product))

    name = f"encoder-{Path(config.data).stem}-{address(identity)}"
    return made(run, name, product, make, batch=config.encoder.batch_size)
