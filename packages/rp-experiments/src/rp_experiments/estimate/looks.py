"""The stages of what looks at networks: probes, analyses of runs and of purifiers, and small checks.

The main parts only: passes of networks, trainings and sparse autoencoders; what is computed from features is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rp_attacks import PGD
from rp_dra import EdmTarget, objective_of
from rp_dra.classifier import feature_width
from rp_dra.encoder_trainer import EncoderFineTuner, EncoderTrainer
from rp_dra.probe import new_probe
from rp_models.data import DatasetInfo, describe
from rp_models.diffusion.encoder_classifier import DiffusionClassifier
from rp_purify import PurifierSettings, settings_of
from rp_purify.settings.base import ROLES
from torch import Tensor, nn

from rp_experiments.alignment_networks import noisy_trainer
from rp_experiments.estimate import steps
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.counting import Sized, fake_images, on_meta
from rp_experiments.estimate.networks import network_of
from rp_experiments.estimate.stages import Stage
from rp_experiments.estimate.systems import PassCost, pass_cost
from rp_experiments.estimate.training import Step, modules_of, slots_of
from rp_experiments.estimate.trainings import training_stage
from rp_experiments.papers.settings import DescentCheck, Representations, Timing
from rp_experiments.recipes.analysis import Analysis
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.pretrain_settings import Pretrain, PretrainEdm
from rp_experiments.recipes.probe import ProbeStudy
from rp_experiments.run import Run

BATCH = 512  # images of a probe's passes
Looked = Mapping[str, Any]
"""The settings of a look under "look", and by name those of the runs or networks that it looks at."""


def probe(config: ProbeStudy, run: Run, card: Card) -> Iterator[Stage]:
    """The encoders that are baselines, and the probes' features and attacks."""
    models, info = config.models, describe(config.models.data)
    for baseline, settings in (("noisy encoder", config.noisy_encoder), ("fine-tuned encoder", config.fine_tuning)):
        if baseline in config.baselines:
            with torch.device("meta"):
                trainer = _encoder_trainer(config, baseline, run)
            step = Step(_loss(trainer, info), modules_of(trainer), slots=slots_of(trainer.state.optimizer))
            compute = models.compute
            yield training_stage(baseline, step, trainer.steps, settings.batch_size, compute, run, card)
    train, test = steps.number_of(info, "train", models.train_images), steps.number_of(info, "test")
    cost = _probe_cost(models)
    fits = len(config.sigmas) + 1 + len(config.noisy_sigmas) * config.noisy_draws
    curves = len(config.radii) * test * (_attacked(cost, config.attack_steps, info))
    noisy = len(config.noisy_sigmas) * config.noisy_images * (config.passes + 1) * config.noisy_steps
    flop = fits * train * cost.forward + curves + noisy * (cost.forward + cost.backward["exact"])
    yield Stage(
        name="probes",
        flop=flop,
        memory=cost.memory,
        batch=BATCH,
        note="features and PGD, without AutoAttack and attention heads",
    )


def _encoder_trainer(config: ProbeStudy, baseline: str, run: Run) -> EncoderTrainer:
    """The trainer of a baseline that is made of the diffusion model's encoder."""
    models = config.models
    info, denoiser, layer = describe(models.data), _denoiser(models), models.alignment.layer[0]
    images = Sized(info, steps.number_of(info, "train", models.train_images))
    if baseline == "noisy encoder":
        compute = steps.uncompiled(models.compute)
        return noisy_trainer(denoiser, images, config.noisy_encoder, layer=layer, compute=compute, run=run, seed=0)
    settings = config.fine_tuning
    model = DiffusionClassifier(
        denoiser,
        info.num_classes,
        sigma=settings.sigma,
        layer=layer,
        head=settings.head,
    )
    objective = objective_of(models.training, method="at", num_classes=info.num_classes)
    return EncoderFineTuner(model, images, settings, objective=objective, seed=0)


def _loss(trainer: EncoderTrainer, info: DatasetInfo) -> Any:
    def loss(count: int, attack_steps: int) -> Tensor:
        del attack_steps
        found: Tensor = trainer.loss(*fake_images(info, count))[0]
        return found

    return loss


def _denoiser(config: TrainDra) -> Any:
    return network_of(PretrainEdm(data=config.data, edm=config.edm))


def _probe_cost(config: TrainDra) -> PassCost:
    """A pass of the linear probe on the diffusion model's features."""
    info, settings = describe(config.data), config.alignment
    target = EdmTarget(_denoiser(config), sigma=settings.sigma[0], layer=settings.layer[0], label="null")
    return pass_cost(on_meta(lambda: new_probe(target, Sized(info, 1), seed=0)), info, batch=BATCH)


def _attacked(cost: PassCost, attack_steps: int, info: DatasetInfo) -> float:
    """Operations of PGD on an image."""
    return cost.of(PGD(steps=attack_steps, loss="cw"), info.num_classes) or 0.0


def analysis(config: Looked, run: Run, card: Card) -> Iterator[Stage]:
    """`analyze.py` on a run of `train_dra.py`: features, attacks and sparse autoencoders of each method."""
    look, trained = config["look"], config["run"]
    assert isinstance(look, Analysis)
    info, models, cost = describe(trained.data), len(trained.method), _classifier_cost(trained)
    train, test = steps.number_of(info, "train"), steps.number_of(info, "test", look.images)
    attacks = 2 + len(look.radii)  # of features and spectra, and of the curves
    each = attacks * _attacked(cost, look.attack_steps, info) + 3 * cost.forward + 2 * cost.backward["exact"]
    flop = models * (test * each + train * cost.forward)
    yield Stage(name="features and attacks", flop=flop, memory=cost.memory, batch=BATCH, note=f"{test:,} images")
    width = feature_width(steps.classifier_of(trained))
    latents = round(look.sae_expansion * width)
    runs = models * len(look.sae_k) * len(look.sae_seeds)
    # encoder forward, its weights' gradient, and at most as much for decoder and dead latents
    flop = runs * look.sae_epochs * train * 6.0 * width * latents
    memory = 4.0 * (train * width + 8 * width * latents)
    note = f"{runs} autoencoders of {latents:,} latents, {look.sae_epochs} epochs; reckoned, not counted"
    yield Stage(name="sparse autoencoders", flop=flop, memory=memory, disk=4.0 * train * width, note=note)


def representations(config: Looked, run: Run, card: Card) -> Iterator[Stage]:
    """Features of a run's classifiers beside those of its diffusion model."""
    look, trained = config["look"], config["run"]
    assert isinstance(look, Representations)
    info, cost, target = describe(trained.data), _classifier_cost(trained), _probe_cost(trained)
    train, test = steps.number_of(info, "train"), steps.number_of(info, "test", look.images)
    classifiers = len(trained.method) * (_attacked(cost, look.attack_steps, info) + 2 * cost.forward)
    flop = test * (classifiers + 3 * cost.backward["exact"] + _attacked(target, look.attack_steps, info))
    flop += (train + 2 * test) * target.forward
    memory = max(cost.memory, target.memory)
    yield Stage(name="", flop=flop, memory=memory, batch=BATCH, note=f"{test:,} images")


def _classifier_cost(config: TrainDra) -> PassCost:
    info = describe(config.data)
    batch = max(64, BATCH * 3 * 32**2 // (info.channels * info.image_size**2))
    return pass_cost(steps.classifier_of(config), info, batch=batch)


def views(config: Looked, run: Run, card: Card) -> Iterator[Stage]:
    """`analyze_purifier.py`: attacks on the classifier, purifications, and passes that measure attention."""
    look = config["look"]
    assert isinstance(look, PurifierAnalysis)
    info, front = describe(look.data), network_of(config["classifier"])
    images, alone = steps.number_of(info, "test", look.images), pass_cost(front, info, batch=look.batch_size)
    strengths = [look.attack_steps] * len(look.radii) + list(look.weak_steps) * (len(look.radii) // 2)
    flop, memory = sum(_attacked(alone, count, info) for count in strengths), alone.memory
    for role in ("mae", "rmae", "maskdit", "rmaskdit"):
        if (kind := role.removeprefix("r")) in config:
            descent = look.descent_of(role)
            options = {"mae" if kind == "mae" else "model": "given", "steps": descent.steps}
            choice = settings_of(f"{kind}-pure", mask_rate=descent.mask_rate, **options)
            cost = _cost(choice, {kind: config[kind]}, front, info, look.batch_size)
            flop, memory = flop + 4 * (cost.forward - alone.forward), max(memory, cost.memory)
    yield Stage(name="", flop=images * flop, memory=memory, batch=look.batch_size, note=f"{images:,} images")


def timing(config: Looked, run: Run, card: Card) -> Iterator[Stage]:
    """Purifications of a batch, a few times for each row."""
    look = config["look"]
    assert isinstance(look, Timing)
    comparison: Comparison = look.comparison
    info, front = describe(comparison.data), network_of(config["classifier"])
    flop, memory = 0.0, 0.0
    for row in look.rows:
        if row in comparison.chosen:
            cost = _cost(comparison.purifier(row), config, front, info, look.images)
            flop, memory = flop + cost.forward, max(memory, cost.memory)
    flop *= look.images * (look.repeats + 1)
    yield Stage(name="", flop=flop, memory=memory, batch=look.images, note="some batches")


def descent(config: Looked, run: Run, card: Card) -> Iterator[Stage]:
    """Theorem J.1: gradient descent of the autoencoder's loss, image by image, for each mask, rate and length."""
    look = config["look"]
    assert isinstance(look, DescentCheck)
    info, front = describe(look.comparison.data), network_of(config["classifier"])
    one = settings_of("mae-pure", mae="given", steps=1)
    cost, alone = _cost(one, config, front, info, 1), pass_cost(front, info, batch=look.images)
    passes = look.masks * len(look.rates) * (sum(look.steps) + 3 * len(look.steps))
    flop = look.images * (passes * cost.forward + _attacked(alone, look.attack_steps, info))
    yield Stage(name="", flop=flop, memory=max(cost.memory, alone.memory), batch=1, note=f"{look.images} images")


def _cost(
    choice: PurifierSettings, networks: Mapping[str, Any], front: nn.Module, info: DatasetInfo, batch: int
) -> PassCost:
    """A pass through a purifier whose networks have the sizes of those of their roles, fine-tuned or not."""
    named = [getattr(choice, name, "") for name in ROLES]
    kinds = [_role(choice, role, networks) for role in named if role]
    parts = tuple(network_of(networks[kind]) for kind in kinds)
    return pass_cost(front, info, purifier=choice, networks=parts, rules=("exact",), batch=batch)


def _role(choice: PurifierSettings, role: str, networks: Mapping[str, Pretrain]) -> str:
    """The pre-trained network that a role's network has the size of."""
    if role in networks:
        return role
    kind = {"mae": "mae", "model": "edm"}["mae" if hasattr(choice, "mae") else "model"]
    guess = role.removeprefix("r").removesuffix("_once")
    return guess if guess in networks else "maskdit" if choice.kind.startswith("maskdit") else kind
