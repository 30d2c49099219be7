"""The steps of the trainings, of full size on the meta device, ready to be counted; no file of weights is needed."""

from dataclasses import replace
from itertools import product
from typing import Any

import torch
from rp_dra import ClassifierTrainer, objective_of
from rp_dra.alignment_settings import FROM_EDM
from rp_dra.settings import AlignmentSettings, Method, uses_alignment, uses_synthetic
from rp_dra.targets import FrozenTarget
from rp_dra.targets.build import alignment_target, fresh
from rp_dra.targets.edm import EncoderTarget
from rp_dra.targets.latent import LightningDitTarget
from rp_dra.targets.module import JoinedTarget
from rp_models import zoo
from rp_models.checkpoint import CheckpointError
from rp_models.data import DatasetInfo, describe
from rp_models.diffusion.encoder_classifier import NoisyClassifier
from rp_models.networks.vae import LatentNormalization
from rp_models.settings import ComputeSettings
from rp_models.training.edm import build_edm
from rp_models.training.minibatches import Minibatch
from torch import Tensor, nn

from rp_experiments.estimate.counting import Sized, fake_images
from rp_experiments.estimate.training import Step, modules_of, slots_of
from rp_experiments.pretrain_kinds import KINDS, trainer_of
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.run import Run

PUBLISHED = {"dit": "lightningdit-xl-1", "vae": "vavae-f16d32"}  # where an alignment's files are not at hand


def number_of(info: DatasetInfo, split: str, given: int | None = None) -> int:
    """Images of a split: as many as the settings say, or the catalogue."""
    count = info.split_sizes.get(split)
    if count is None and given is None:
        raise ValueError(f"how many images the split {split} of {info.name} has is not known before they are read")
    return min(filter(None, (count, given)))


def pretraining(config: Pretrain, run: Run) -> Step:
    """A step of `pretrain.py`."""
    info = describe(config.data)
    config = replace(config, compute=uncompiled(config.compute))
    with torch.device("meta"):
        trainer: Any = trainer_of(config, Sized(info, number_of(info, "train")), run)

    def loss(count: int, attack_steps: int) -> Tensor:
        del attack_steps
        batch = trainer.drawn(Minibatch(*fake_images(info, count)), 0)
        found: Tensor = trainer.loss(*batch)[0]
        return found

    return Step(loss, modules_of(trainer), slots=slots_of(trainer.state.optimizer))


def classifier_training(config: TrainDra, method: Method, run: Run) -> tuple[Step, int]:
    """A step of one of `train_dra.py`'s methods, and the number of steps."""
    info, used = describe(config.data), uses_synthetic(method)
    real = Sized(info, number_of(info, "train", config.train_images))
    synthetic = Sized(replace(info, image_size=config.synthetic.image_size or info.image_size), config.synthetic.images)
    with torch.device("meta"):
        target = _target(config, info, used) if uses_alignment(method) else None
        trainer = ClassifierTrainer(
            replace(config.classifier, pretrained=None),  # weights change no cost
            config.training,
            real,
            objective=objective_of(config.training, method=method, num_classes=info.num_classes),
            synthetic=synthetic if used else None,
            target=target,
            alignment=config.alignment,
            compute=uncompiled(config.compute),
            processes=run.processes,
            seed=config.seed,
        )
    whole = trainer.objective

    def loss(count: int, attack_steps: int) -> Tensor:
        known = hasattr(whole, "steps") and attack_steps > 0
        trainer.objective = replace(whole, steps=attack_steps) if known else whole  # type: ignore[type-var]
        whole.after_update(trainer.model)  # of the count before this one
        last = config.training.epochs - 1  # by then everything that starts later has started
        trainer.objective.begin_step(trainer.model, step=last, steps_per_epoch=1, epochs=last + 1)
        return trainer.loss(*fake_images(info, count))[0]

    step = Step(
        loss,
        modules_of(trainer),
        [target] if target is not None else [],
        attack_steps=int(getattr(whole, "steps", 0)),
        slots=slots_of(trainer.state.optimizer),
        objective=f"{whole} {getattr(target, 'random_level', None)}",
        divisible=whole.additive and not (target is not None and config.alignment.pairs),
        checkpointable=target is None or config.alignment.loss != "tokens",
    )
    return step, trainer.steps


def uncompiled(compute: ComputeSettings) -> ComputeSettings:
    """The settings as they are counted: a compiled network does the same, on tensors that have values."""
    return replace(compute, compile=False, cuda_graphs=False)


def _target(config: TrainDra, info: DatasetInfo, synthetic: bool) -> FrozenTarget:
    """The alignment's target: of the run's own files, or where they are not at hand of networks of the same size."""
    settings, many = config.alignment, config.synthetic.images if synthetic else 0
    denoiser = build_edm(config.edm, Sized(info, 1)) if settings.target in FROM_EDM else None
    if config.makes_target:
        return _trained(config, info, denoiser)
    try:
        return alignment_target(settings, denoiser, torch.device("meta"), synthetic=many, info=info)
    except CheckpointError:
        if settings.target == "encoder":
            return _trained(config, info, denoiser)
        if settings.target != "lightningdit":
            raise
        return _published(settings)


def _trained(config: TrainDra, info: DatasetInfo, denoiser: nn.Module | None) -> FrozenTarget:
    """The target whose network another run trains: the noisy-input encoder."""
    settings, encoder = config.alignment, config.encoder
    if settings.target != "encoder" or denoiser is None:
        raise ValueError(f"--estimate does not know the target {settings.target} before its network is trained")
    network: Any = fresh(denoiser, 0, label_dim=0)
    layer: Any = settings.layer[0]
    model = NoisyClassifier(network, info.num_classes, sigma=encoder.sigma, layer=layer, head=encoder.head)
    return EncoderTarget(model, precision=settings.precision)


def _published(settings: AlignmentSettings) -> FrozenTarget:
    vae: Any = zoo.build(PUBLISHED["vae"])
    parts: Any = zoo.build(PUBLISHED["dit"]), vae, LatentNormalization(vae.latent_channels, 1.0)
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("label", "precision", "zero_channels")}
    second, places = settings.random_level == "yes", list(product(settings.time, settings.blocks))
    made = [
        LightningDitTarget(*parts, t=t, blocks=blocks, random_level=second and len(places) == 1, **options)
        for t, blocks in places
    ]
    return made[0] if len(made) == 1 else JoinedTarget(made, random_level=second)


def classifier_of(config: TrainDra) -> nn.Module:
    """The network that `train_dra.py` trains, on the meta device."""
    from rp_dra import build_classifier

    with torch.device("meta"):
        return build_classifier(config.classifier, describe(config.data), pretrained=False)


def kind_settings(config: Pretrain) -> Any:
    """The settings of network and training in a pre-training's configuration."""
    return getattr(config, KINDS[type(config)].settings)
