"""The stages of the apps that attack, sample and reproduce."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import rp_attacks
import torch
from rp_attacks.problem import Attack
from rp_models import zoo
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data import DatasetInfo, describe
from rp_models.foreign import is_foreign
from rp_models.loading import load_classifier, load_network
from rp_models.training.edm import build_edm
from rp_models.training.mae import build_mae
from rp_models.training.maskdit import build_maskdit
from rp_models.training.standard import build_standard
from rp_purify import PurifierSettings
from rp_purify.build import build_purifier
from torch import nn

from rp_experiments.artifacts import in_order
from rp_experiments.diffusion import build_sampler, data_of
from rp_experiments.estimate import trainings
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.counting import Sized, on_meta
from rp_experiments.estimate.finetuning import finetuning
from rp_experiments.estimate.sampling import sampling_stage
from rp_experiments.estimate.stages import Stage
from rp_experiments.estimate.steps import kind_settings, number_of
from rp_experiments.estimate.systems import PassCost, evaluation_flop, pass_cost, rules_of
from rp_experiments.purifier_networks import FINETUNED
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.recipes.generate import Generation
from rp_experiments.recipes.pretrain_settings import PretrainClassifier
from rp_experiments.recipes.standard_classifier import STANDARD
from rp_experiments.run import Run

_BUILD = {
    "classifier": lambda settings, images: build_standard(settings, images),
    "mae": lambda settings, images: build_mae(settings),
    "maskdit": lambda settings, images: build_maskdit(settings),
    "edm": lambda settings, images: build_edm(settings, images),
}


def generate(config: Generation, run: Run, card: Card, *, checkpoint: str) -> Iterator[Stage]:
    """`generate.py`: the images, with their candidates where the most confident are kept."""
    config = replace(config, data=config.data or data_of(checkpoint))
    sampler: Any = build_sampler(checkpoint, load_network(checkpoint), config, torch.device("cpu"))
    made = -(-config.images * 10**6 // round(config.keep * 10**6))
    precision = config.compute.precision
    yield sampling_stage(sampler, images=made, batch=config.batch_size, precision=precision)


def evaluate(config: Evaluation, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    """`evaluate.py`: attacks at their full length on every image, verdicts and controls."""
    info = describe(config.data)
    if config.model or config.data not in STANDARD:
        classifier = load_classifier(config.model, info)
    else:
        classifier = _built("classifier", STANDARD[config.data](), info)
    defended = config.defended and config.purifier.kind != "none"
    purifier = build_purifier(config.purifier, info, "cpu", classifier=classifier) if defended else None
    attacks = rp_attacks.suite(
        config.suite, eps=config.eps, norm=config.ball, random=defended, classes=info.num_classes,
        gradients=purifier.gradients if purifier is not None else (), source=classifier if defended else None,
        budget=config.budget,
    )  # fmt: skip
    networks = _networks_in(purifier)
    sizes = config.sizes
    cost = pass_cost(
        classifier, info, purifier=config.purifier if defended else None, networks=networks, rules=rules_of(attacks),
        batch=config.batch_size,
    )  # fmt: skip
    images = number_of(info, config.split or "test", sizes.images)
    stage = _attacked("attacks and verdicts", cost, attacks, info, images=images, random=defended, passes=sizes.passes)
    yield replace(stage, precision=config.compute.precision)


def compare(config: Comparison, run: Run, card: Card, *, tune: bool = False, so_far: bool = False) -> Iterator[Stage]:
    """`compare_purifiers.py`: the networks that are not given, then each row."""
    if tune or so_far:
        raise ValueError("--estimate counts a whole comparison; leave out --tune and --so-far")
    yield from networks(config, _roles(config, config.chosen), run, card)
    for row in config.chosen:
        yield _row(config, row)


def networks(config: Comparison, roles: Sequence[str], run: Run, card: Card) -> Iterator[Stage]:
    """The trainings of a comparison's networks, by role."""
    needed = dict.fromkeys(("classifier", *(name for role in roles for name in (_base(role), role))))
    for role in needed:
        if role in FINETUNED:
            tuning = getattr(config, f"finetune_{role.removeprefix('r')}")
            given = {"model": _of_role(config, _base(role)), "classifier": _of_role(config, "classifier")}
            yield from finetuning(tuning, run, card, trainings.training_stage, **given)
        elif not getattr(config, role):
            yield from trainings.pretrain(getattr(config, f"pretrain_{role}"), run, card)


def reproduce(items: Sequence[Any], run: Run, card: Card, *, plan: Any, **_: Any) -> Iterator[Stage]:
    """`reproduce.py`: each product that the items need; the small ones on features and figures are left out."""
    for artifact in in_order(one for item in items for one in item.needed(plan)):
        config = artifact.config
        if artifact.job == "train_dra":
            stages = trainings.train_dra(config, run, card)
        elif artifact.job == "networks":
            stages = networks(config.comparison, config.roles, run, card)
        elif artifact.job == "compare":
            stages = (_row(config, row) for row in config.chosen)
        elif artifact.job == "attacks":
            stages = (_case(config, case) for case in config.cases)
        else:
            yield Stage(name=artifact.name, flop=1.0, memory=0.0, note="not counted")
            continue
        yield from (replace(stage, name=f"{artifact.name}: {stage.name}") for stage in stages)


def _row(config: Comparison, row: str) -> Stage:
    choice = getattr(config.rows, row)
    return _system(config, row, choice, "purifier", {"budget": config.budget.of_suite(), "alone": config.exhaustive})


def _case(config: Any, case: Any) -> Stage:
    """One case of an attack table, with the attacks of its families."""
    comparison = config.comparison
    choice = replace(getattr(comparison.rows, case.row), **case.changes)
    names = {"short": "purifier-quick", "black-box": "blackbox"}
    classifier = config.classifiers.get(case.classifier)
    found = [
        _system(
            comparison,
            case.name,
            choice,
            names.get(family, "gradient"),
            {"budget": config.budget, "norm": family if family in ("l1", "l2") else "linf"},
            classifier=classifier,
        )
        for family in case.families
    ]
    return replace(found[0], flop=sum(stage.flop for stage in found), memory=max(stage.memory for stage in found))


def _system(
    config: Comparison,
    name: str,
    choice: PurifierSettings,
    suite: str,
    options: Mapping[str, Any],
    *,
    classifier: PretrainClassifier | None = None,
) -> Stage:
    info = describe(config.data)
    given = {role: getattr(choice, role, "") for role in ("mae", "model")}
    parts = tuple(_of_role(config, _base(role)) for role in given.values() if role)
    front = _of_role(config, "classifier") if classifier is None else _built("classifier", classifier, info)
    random = choice.kind != "none"
    attacks = rp_attacks.suite(
        suite, random=random, classes=info.num_classes, source=front if random else None,
        gradients=_gradients(choice, parts) if random else (), **options,
    )  # fmt: skip
    cost = pass_cost(
        front, info, purifier=choice, networks=parts, rules=rules_of(attacks), batch=config.batch_size,
    )  # fmt: skip
    images = number_of(info, "test", config.images)
    stage = _attacked(name, cost, attacks, info, images=images, random=random, passes=config.budget.passes)
    return replace(stage, precision=config.compute.precision)


def _attacked(
    name: str,
    cost: PassCost,
    attacks: Mapping[str, Attack],
    info: DatasetInfo,
    *,
    images: int,
    random: bool,
    passes: int | None,
) -> Stage:
    passes = passes if random else 1
    flop, unknown = evaluation_flop(
        cost, attacks, images=images, classes=info.num_classes, random=random, passes=passes
    )
    missing = f", without {', '.join(unknown)}" if unknown else ""
    note = f"{images:,} images, at most: none falls early{missing}"
    return Stage(name=name, flop=flop, memory=cost.memory, batch=cost.batch, note=note)


def _gradients(choice: PurifierSettings, parts: tuple[nn.Module, ...]) -> tuple[str, ...]:
    from rp_purify.build import purifier_around

    return purifier_around(choice, *parts).gradients


def _networks_in(purifier: Any) -> tuple[nn.Module, ...]:
    """The network of a purifier that was built from its files."""
    inner = getattr(purifier, "purifier", purifier)
    model = getattr(inner, "model", None)
    return (model,) if isinstance(model, nn.Module) else ()


def _roles(config: Comparison, rows: Sequence[str]) -> tuple[str, ...]:
    choices = [getattr(config.rows, row) for row in rows]
    return tuple(filter(None, (getattr(choice, name, "") for choice in choices for name in ("mae", "model"))))


def _base(role: str) -> str:
    """The role whose network a fine-tuned one starts from."""
    return role.removeprefix("r").removesuffix("_once") if role in FINETUNED else role


def _of_role(config: Comparison, role: str) -> nn.Module:
    """A comparison's network without its weights: of the file that is given, or of the settings that would train it."""
    given = getattr(config, role)
    if given and not is_foreign(given):
        try:
            header = read_header(given)
        except CheckpointError:
            pass  # to be given later: the settings name the same network
        else:
            return on_meta(lambda: zoo.build_entry(header.architecture, **header.arguments))
    return _built(role, getattr(config, f"pretrain_{role}"), describe(config.data))


def _built(role: str, config: Any, info: DatasetInfo) -> nn.Module:
    network: nn.Module = on_meta(lambda: _BUILD[role](kind_settings(config), Sized(info, 1)))
    return network
