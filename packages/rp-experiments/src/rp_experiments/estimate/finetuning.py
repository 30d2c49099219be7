"""What robust fine-tuning of a purifier takes: its attacks, its steps and its judgement."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from rp_attacks import PGD
from rp_models.data import describe
from rp_models.loading import load_classifier, load_denoiser, load_mae, load_maskdit
from rp_models.training.standard import build_standard
from rp_purify import Finetuner, Purifier, PurifierSettings, settings_of
from rp_purify.build import purifier_around
from rp_purify.tuning import DenoiserTuner
from torch import Tensor, nn

from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.counting import Sized, fake_images, on_meta
from rp_experiments.estimate.stages import Stage
from rp_experiments.estimate.steps import number_of, uncompiled
from rp_experiments.estimate.systems import OF_DATA, PassCost, pass_cost
from rp_experiments.estimate.training import Step, modules_of, slots_of
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.standard_classifier import STANDARD
from rp_experiments.run import Run


class _Counted(Finetuner):
    """The loss of fine-tuning alone: no batches, no optimizer, and weights of which nobody asks for values."""

    def __init__(self, config: Finetuning, purifier: Purifier, model: nn.Module, classifier: nn.Module) -> None:
        self.settings, self.seed = config.finetune, config.seed
        self.purifier, self.model, self.classifier = purifier, model, classifier


def finetuning(
    config: Finetuning,
    run: Run,
    card: Card,
    training_stage: Callable[..., Stage],
    *,
    model: nn.Module | None = None,
    classifier: nn.Module | None = None,
) -> Iterator[Stage]:
    """All stages and the judgement; networks that are not given are read."""
    if classifier is None:
        classifier = _standard(config)
    if config.kind in ("adbm", "addt"):
        yield from _tuned(config, run, card, training_stage, model, classifier)
        return
    info = describe(config.data)
    if model is None:
        model = load_mae(config.mae, info) if config.kind == "mae" else load_maskdit(config.maskdit, info)
    attack, images = config.attack, number_of(info, "train", config.train_images)
    rule = "exact" if config.through == "one-shot" else "identity"
    pgd = PGD(eps=attack.eps, step_size=attack.step_size, steps=attack.steps, grad=rule)
    cost = _cost(config, _settings(config, through=True), model, classifier, rule)
    yield Stage(
        name="stage I", flop=images * (cost.of(pgd, info.num_classes) or 0.0), memory=cost.memory,
        batch=config.batch_size, disk=images * (info.channels * info.image_size**2 + 8), note=f"{images:,} images",
    )  # fmt: skip
    step, settings = finetuning_step(config, model, classifier), config.finetune
    batch, like = settings.batch_size, _like(config, model, classifier)
    yield training_stage("stage II", step, settings.steps, batch, config.compute, run, card, like=like)
    yield _judgement(config, _settings(config, through=False), model, classifier, "identity")


def _tuned(
    config: Finetuning,
    run: Run,
    card: Card,
    training_stage: Callable[..., Stage],
    model: nn.Module | None,
    classifier: nn.Module,
) -> Iterator[Stage]:
    """ADBM's or ADDT's training of a denoiser, and its judgement."""
    if model is None:
        model = load_denoiser(config.edm, describe(config.data))
    step, settings = tuning_step(config, model, classifier), config.tuning
    batch, like = settings.batch_size, _like(config, model, classifier)
    yield training_stage("training", step, settings.steps, batch, config.compute, run, card, like=like)
    options = {"steps" if config.kind == "adbm" else "reverse_steps": config.reverse_steps}
    kind = "adbm" if config.kind == "adbm" else "diffpure"
    judged = settings_of(kind, model="given", times=config.times, **options)
    yield _judgement(config, judged, model, classifier, "exact")


def _like(config: Finetuning, model: nn.Module, classifier: nn.Module) -> str:
    """What a step of a fine-tuning depends on, the number of classes left aside; "" for networks that are not known."""
    recipes: list[Any] = [getattr(module, "recipe", None) for module in (model, classifier)]
    if None in recipes:
        return ""
    built = [(one.name, {k: v for k, v in one.arguments.items() if k not in OF_DATA}) for one in recipes]
    own = [config.unrolled, config.one_shot_mask_rate, config.finetune.mask_rate, config.finetune.mu > 0]
    tuned = [config.tuning.adversary_steps, getattr(config.tuning, "leak", False)]
    return repr([config.kind, config.through, own, tuned, built, config.compute])


def _judgement(
    config: Finetuning, judged: PurifierSettings, model: nn.Module, classifier: nn.Module, rule: str
) -> Stage:
    """The attacks on the purifier before and after."""
    info, attack = describe(config.data), config.attack
    tests = number_of(info, "test", config.images)
    cost = _cost(config, judged, model, classifier, rule)
    pgd = PGD(eps=attack.eps, steps=attack.judging_steps, eot=attack.eot, grad=rule)
    flop = 2 * tests * ((cost.of(pgd, info.num_classes) or 0.0) + 4 * cost.forward)
    return Stage(
        name="judgement", flop=flop, memory=cost.memory, batch=config.batch_size,
        note=f"{tests:,} images, before and after",
    )  # fmt: skip


def _cost(
    config: Finetuning, settings: PurifierSettings, model: nn.Module, classifier: nn.Module, rule: str
) -> PassCost:
    info, batch = describe(config.data), config.batch_size
    return pass_cost(classifier, info, purifier=settings, networks=(model,), rules=(rule,), batch=batch)


def tuning_step(config: Finetuning, denoiser: nn.Module, classifier: nn.Module) -> Step:
    """A step of ADBM's or ADDT's training, around networks without values."""
    info = describe(config.data)
    images, compute = Sized(info, number_of(info, "train")), uncompiled(config.compute)
    trainer = DenoiserTuner(config.tuning, denoiser, classifier, images, compute=compute, seed=config.seed)

    def loss(count: int, attack_steps: int) -> Tensor:
        del attack_steps
        return trainer.loss(*fake_images(info, count))[0]

    return Step(loss, modules_of(trainer), [classifier], slots=slots_of(trainer.state.optimizer))


def finetuning_step(config: Finetuning, model: nn.Module, classifier: nn.Module) -> Step:
    """A step of stage II, around networks without values."""
    model.requires_grad_(True)
    info, made = describe(config.data), _trained(config, model)
    trainer = _Counted(config, made, model, classifier)

    def loss(count: int, attack_steps: int) -> Tensor:
        del attack_steps
        x, y, draw = fake_images(info, count)
        with torch.enable_grad():
            return trainer.loss(x, x, y, draw)[0]

    return Step(loss, [model], [classifier])


def _trained(config: Finetuning, model: nn.Module) -> Purifier:
    """What is trained through; see `FinetuneJob.purifiers`."""
    made = purifier_around(_settings(config, through=True), model)
    return made if config.through == "one-shot" else made.with_gradient("ste-tanh")


def _settings(config: Finetuning, *, through: bool) -> PurifierSettings:
    """The purifier that is trained through, or the one that is judged, as settings of named files."""
    mae, options = config.kind == "mae", asdict(config.unrolled if through else config.descent)
    if through and config.through == "one-shot":
        if mae:
            return settings_of("mae-reconstruction", mae="given", mask_rate=config.one_shot_mask_rate)
        return settings_of("denoise", model="given", sigma=config.sigma)
    if mae:
        return settings_of("mae-pure", mae="given", **options)
    return settings_of("maskdit-pure", model="given", sigma=config.sigma, **options)


def _standard(config: Finetuning) -> nn.Module:
    """The named classifier, or the data set's standard one without its weights."""
    info = describe(config.data)
    if config.classifier:
        return load_classifier(config.classifier, info)
    return on_meta(lambda: build_standard(STANDARD[config.data]().standard, Sized(info, 1)))
