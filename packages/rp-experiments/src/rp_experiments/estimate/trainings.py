"""The stages of trainings: pre-trainings and the methods of `train_dra.py`."""

from collections.abc import Iterator
from dataclasses import replace

from rp_attacks import PGD
from rp_models.data import describe
from rp_models.settings import ComputeSettings
from rp_models.training.edm import build_edm

from rp_experiments.dra_judgement import autoattack
from rp_experiments.estimate import steps
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.counting import Sized, on_meta
from rp_experiments.estimate.sampling import heun_stage
from rp_experiments.estimate.stages import Stage
from rp_experiments.estimate.systems import attacked, pass_cost
from rp_experiments.estimate.training import Step, StepCost, step_cost, trainable
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.run import Run

_COUNTED: dict[tuple[str, int, int, str], StepCost] = {}
STATE_COPIES = 2  # the state's file, and the one that replaces it


def training_stage(
    name: str, step: Step, count: int, batch: int, compute: ComputeSettings, run: Run, card: Card, *, like: str = ""
) -> Stage:
    """So many steps of a training; steps that are `like` each other are counted once."""
    processes = run.processes.count
    if batch % processes:
        raise ValueError(f"a batch of {batch} cannot be divided among {processes} cards; choose a divisor")
    key = (like, batch, processes, card.name)
    cost = _COUNTED.get(key) if like else None
    if cost is None:
        cost = step_cost(step, batch // processes, limit=card.usable, compute=compute, processes=processes)
        _COUNTED[key] = cost
    state = 4 * trainable(step.trained) * (len(step.trained) + step.slots)
    return Stage(
        name=name, flop=cost.flop * batch * count, memory=cost.memory, precision=compute.precision,
        batch=cost.batch, micro_batch=cost.micro_batch, checkpointing=cost.checkpointing, whole=cost.whole,
        disk=STATE_COPIES * state, steps=count, note=f"{count:,} steps",
    )  # fmt: skip


def pretrain(config: Pretrain, run: Run, card: Card) -> Iterator[Stage]:
    """A pre-training."""
    settings, step = steps.kind_settings(config), steps.pretraining(config, run)
    yield training_stage("", step, settings.steps, settings.batch_size, config.compute, run, card)


def drawn(config: TrainDra, run: Run, card: Card) -> Iterator[Stage]:
    """The synthetic images that a run draws from its diffusion model."""
    del run, card
    info, settings = describe(config.data), config.synthetic
    denoiser = on_meta(lambda: build_edm(config.edm, Sized(info, 1)))
    stage = heun_stage(denoiser, info, images=settings.images, steps=settings.steps, batch=settings.batch_size)
    yield replace(stage, name="")


def _like(config: TrainDra, step: Step) -> str:
    """What a step of a method depends on, the number of classes left aside."""
    info, target = describe(config.data), [config.alignment, config.edm, len(step.frozen)] if step.frozen else []
    settings = [config.classifier, config.compute, target, step.attack_steps, step.divisible, step.slots]
    return repr([*settings, info.channels, info.image_size, [type(m) for m in step.trained], step.objective])


def method(config: TrainDra, run: Run, card: Card) -> Iterator[Stage]:
    """The only method of a run: training, validation, AutoAttack."""
    (name,), info, training = config.method, describe(config.data), config.training
    step, count = steps.classifier_training(config, name, run)
    yield training_stage("", step, count, training.batch_size, config.compute, run, card, like=_like(config, step))
    classifier = steps.classifier_of(config)
    if training.validate_every:
        looks, images = training.epochs // training.validate_every, steps.number_of(info, "validation")
        cost = pass_cost(classifier, info, batch=min(training.validation_batch, images))
        flop = (cost.of(PGD(steps=training.validation_steps), info.num_classes) or 0.0) + cost.forward
        yield Stage(
            name="validation", flop=looks * images * flop, memory=cost.memory, precision=config.compute.precision,
            batch=cost.batch,
            note=f"{looks} times PGD-{training.validation_steps}",
        )  # fmt: skip
    judged = steps.number_of(info, "test", config.evaluation.images)
    cost = pass_cost(classifier, info, batch=config.evaluation.batch_size)
    attacks = autoattack(config.evaluation)
    yield replace(attacked(cost, attacks, info, images=judged, random=False, passes=None), name="AutoAttack")
