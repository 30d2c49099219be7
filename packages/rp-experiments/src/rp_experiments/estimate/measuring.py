"""Hours of trainings from a few real steps, on the device that is there; nothing is written."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from rp_dra.settings import Method, uses_alignment, uses_synthetic
from rp_models import noise
from rp_models.data import Images, ImageSet, open_images
from rp_models.training import Trainer
from rp_models.training.devices import describe_device
from rp_models.training.edm import build_edm

from rp_experiments.estimate import fitted
from rp_experiments.estimate.stages import Estimate
from rp_experiments.finetune_purifier import FinetuneJob, job_of
from rp_experiments.pretrain_kinds import trainer_of
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.run import Run
from rp_experiments.train_dra import TrainDraJob

WARM_UP, TIMED = 3, 20  # steps
SYNTHETIC = 10_000  # images that stand for synthetic ones which are still to be made
Trainers = Iterator[tuple[str, Trainer]]
"""Stages of an estimate, and the trainer of each."""


def measured(job: str, config: Any, run: Run, found: Estimate) -> Estimate:
    """An estimate with the hours of trainings as the run's own trainers take them, in one process.

    Data sets are read, networks have fresh weights, and images of noise stand for synthetic ones that the run would
    draw. Raises ValueError for an app that trains nothing by itself.
    """
    if job not in _TRAINERS:
        known = ", ".join(name.partition(":")[0] for name in _TRAINERS)
        raise ValueError(
            f"--measure times the trainings of {known}; evaluate.py says how long it will take when it begins"
        )
    seconds = {name: _seconds(trainer) for name, trainer in _TRAINERS[job](config, run)}
    stages = [
        replace(stage, seconds=seconds[stage.name] * stage.steps) if stage.name in seconds else stage
        for stage in found.stages
    ]
    return replace(found, stages=stages, measured_on=describe_device(run.device))


def _seconds(trainer: Trainer) -> float:
    """Of a step, a mean; the figures that a step gives have waited for the device."""
    for step in range(WARM_UP):
        trainer.step(step)
    began = time.perf_counter()
    for step in range(WARM_UP, WARM_UP + TIMED):
        trainer.step(step)
    return (time.perf_counter() - began) / TIMED


def _pretrain(config: Pretrain, run: Run) -> Trainers:
    kind = type(config).__name__.removeprefix("Pretrain").lower()
    images = open_images(config.data, "train", root=run.root).to(run.device)
    yield f"pretrain {kind}", trainer_of(fitted.pretraining(config, run, "train"), images, run)


def _train_dra(config: TrainDra, run: Run) -> Trainers:
    job = TrainDraJob(config, run)
    for method in config.method:
        yield method, _classifier(job, method)


def _classifier(job: TrainDraJob, method: Method) -> Trainer:
    config, synthetic, denoiser = job.config, None, None
    if uses_synthetic(method):
        synthetic = job.diffusion.synthetic_images(None) if config.synthetic.paths else _noise_like(job.train)
    if uses_alignment(method) and config.needs_diffusion_model:
        fresh = config.diffusion_model is None
        denoiser = build_edm(config.edm, job.train).to(job.run.device) if fresh else job.diffusion.load()
    return job.trainer(method, synthetic, denoiser)


def _noise_like(images: Images) -> ImageSet:
    """Images of noise in the place of synthetic ones."""
    info, index = images.info, torch.arange(SYNTHETIC)
    shape = (info.channels, info.image_size, info.image_size)
    values = noise.uniform(shape, seed=0, purpose="measuring", index=index)
    return ImageSet((255 * values).to(torch.uint8), index % info.num_classes, info).to(images.device)


def _finetune(config: Finetuning, run: Run) -> Trainers:
    """Clean images stand for the attacked ones."""
    job = job_of(config, run)
    if isinstance(job, FinetuneJob):
        yield f"{config.product}: stage II", job.trainer(job.train)
    else:
        yield f"{config.product}: training", job.trainer()


_TRAINERS: dict[str, Callable[[Any, Run], Trainers]] = {
    "pretrain:pretrain": _pretrain,
    "train_dra:train_dra": _train_dra,
    "finetune_purifier:finetune_purifier": _finetune,
}
