"""The stages of the apps that train."""

from collections.abc import Iterator
from typing import Any

from rp_attacks import PGD
from rp_dra.settings import Method
from rp_models.data import describe
from rp_models.settings import ComputeSettings
from rp_models.training.edm import build_edm

from rp_experiments.dra_judgement import autoattack
from rp_experiments.estimate import steps
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.counting import Sized, on_meta
from rp_experiments.estimate.finetuning import finetuning
from rp_experiments.estimate.sampling import heun_stage
from rp_experiments.estimate.stages import Stage
from rp_experiments.estimate.systems import PassCost, evaluation_flop, pass_cost
from rp_experiments.estimate.training import Step, step_cost, trainable
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.pretrain_settings import Pretrain, PretrainEdm
from rp_experiments.run import Run

STATE_COPIES = 2  # the state's file, and the one that replaces it


def training_stage(
    name: str, step: Step, count: int, batch: int, compute: ComputeSettings, run: Run, card: Card
) -> Stage:
    """So many steps of a training."""
    processes = run.processes.count
    if batch % processes:
        raise ValueError(f"a batch of {batch} cannot be divided among {processes} cards; choose a divisor")
    cost = step_cost(step, batch // processes, limit=card.usable, compute=compute, processes=processes)
    state = 4 * trainable(step.trained) * (len(step.trained) + step.slots)
    return Stage(
        name=name, flop=cost.flop * batch * count, memory=cost.memory, precision=compute.precision,
        batch=cost.batch, micro_batch=cost.micro_batch, checkpointing=cost.checkpointing, whole=cost.whole,
        disk=STATE_COPIES * state, note=f"{count:,} steps",
    )  # fmt: skip


def pretrain(config: Pretrain, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    """`pretrain.py`."""
    settings = steps.kind_settings(config)
    step = steps.pretraining(config, run)
    kind = type(config).__name__.removeprefix("Pretrain").lower()
    yield training_stage(f"pretrain {kind}", step, settings.steps, settings.batch_size, config.compute, run, card)


def train_dra(config: TrainDra, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    """`train_dra.py`: diffusion model, synthetic images, each method with its validation, AutoAttack."""
    info = describe(config.data)
    if config.trains_diffusion_model:
        yield from pretrain(PretrainEdm(data=config.data, edm=config.edm), run, card)
    if config.uses_synthetic and not config.synthetic.paths:
        settings = config.synthetic
        denoiser = on_meta(lambda: build_edm(config.edm, Sized(info, 1)))
        yield heun_stage(denoiser, info, images=settings.images, steps=settings.steps, batch=settings.batch_size)
    cost = pass_cost(steps.classifier_of(config), info, batch=config.evaluation.batch_size)
    for method in config.method:
        yield from _method(config, method, run, card, cost)


def _method(config: TrainDra, method: Method, run: Run, card: Card, cost: PassCost) -> Iterator[Stage]:
    info, training = describe(config.data), config.training
    step, count = steps.classifier_training(config, method, run)
    yield training_stage(method, step, count, training.batch_size, config.compute, run, card)
    if training.validate_every and method:
        looks = training.epochs // training.validate_every
        attack = PGD(eps=training.eps, steps=training.validation_steps)
        images = looks * steps.number_of(info, "validation")
        flop = images * ((cost.of(attack, info.num_classes) or 0.0) + cost.forward)
        yield Stage(
            name=f"{method}: validation", flop=flop, memory=cost.memory, precision=config.compute.precision,
            batch=training.validation_batch, note=f"{looks} times PGD-{training.validation_steps}",
        )  # fmt: skip
    judged = steps.number_of(info, "test", config.evaluation.images)
    flop, unknown = evaluation_flop(
        cost, autoattack(config.evaluation), images=judged, classes=info.num_classes, random=False, passes=None
    )
    missing = f", without {', '.join(unknown)}" if unknown else ""
    yield Stage(
        name=f"{method}: AutoAttack", flop=flop, memory=cost.memory, batch=config.evaluation.batch_size,
        note=f"{judged:,} images, at most: none falls early{missing}",
    )  # fmt: skip


def finetune(config: Finetuning, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    """`finetune_purifier.py`; networks are read from the files that the settings name."""
    yield from finetuning(config, run, card, training_stage)
