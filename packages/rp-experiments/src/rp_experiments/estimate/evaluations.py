"""The stages of the apps that attack, purify and sample, from the files that their settings name."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import rp_attacks
import torch
from rp_models.data import describe
from rp_models.loading import load_classifier, load_network
from rp_purify import Defended, Purifier, PurifierSettings
from rp_purify.build import build_purifier
from torch import nn

from rp_experiments.diffusion import build_sampler, data_of
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.networks import network_of
from rp_experiments.estimate.sampling import sampling_stage
from rp_experiments.estimate.stages import Stage
from rp_experiments.estimate.steps import number_of
from rp_experiments.estimate.systems import attacked, pass_cost, rules_of
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.recipes.generate import Generation
from rp_experiments.recipes.purification import Purification
from rp_experiments.recipes.standard_classifier import STANDARD
from rp_experiments.run import Run


def generate(config: Generation, run: Run, card: Card, *, checkpoint: str) -> Iterator[Stage]:
    """`generate.py`: the images, with their candidates where the most confident are kept."""
    config = replace(config, data=config.data or data_of(checkpoint))
    sampler: Any = build_sampler(checkpoint, load_network(checkpoint), config, torch.device("cpu"))
    made = -(-config.images * 10**6 // round(config.keep * 10**6))
    precision = config.compute.precision
    yield sampling_stage(sampler, images=made, batch=config.batch_size, precision=precision)


def evaluate(config: Evaluation, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    """`evaluate.py`: attacks at their full length on every image, verdicts and controls."""
    if config.attacks is None:
        raise ValueError(f"--estimate counts suites of attacks; how long the suite {config.suite} takes is not known")
    info, sizes = describe(config.data), config.sizes
    classifier = _classifier(config)
    choice = config.purifier if config.defended and config.purifier.kind != "none" else None
    defence = None if choice is None else _behind(choice, config, classifier)
    one_pass = None if choice is None else choice.one_pass()
    attacks = rp_attacks.suite(
        config.attacks, eps=config.eps, norm=config.ball, random=config.defended, classes=info.num_classes,
        defence=defence, source=None if defence is None else classifier,
        one_shot=None if one_pass is None else _behind(one_pass, config, classifier), budget=config.budget,
    )  # fmt: skip
    networks = () if defence is None else _networks_in(defence.purifier, classifier)
    cost = pass_cost(
        classifier, info, purifier=choice, networks=networks, rules=rules_of(attacks), batch=config.batch_size
    )
    images = number_of(info, config.split or "test", sizes.images)
    stage = attacked(cost, attacks, info, images=images, random=config.defended, passes=sizes.passes)
    yield replace(stage, name="attacks and verdicts", precision=config.compute.precision)


def purify(config: Purification, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    """`purify.py`: one purification of each image of a data set."""
    if config.input:
        raise ValueError("--estimate counts a data set's images; leave out --input")
    info = describe(config.data)
    classifier = load_classifier(config.classifier, info) if config.classifier else _standard(config.data)
    defence = Defended(build_purifier(config.purifier, info, "cpu", classifier=classifier), classifier)
    networks = _networks_in(defence.purifier, classifier)
    cost = pass_cost(classifier, info, purifier=config.purifier, networks=networks, batch=config.batch_size)
    images = number_of(info, config.split or "test", config.images)
    yield Stage(
        name="purification", flop=images * cost.forward, memory=cost.memory, precision=config.compute.precision,
        batch=config.batch_size, disk=images * (info.channels * info.image_size**2 + 8), note=f"{images:,} images",
    )  # fmt: skip


def _classifier(config: Evaluation) -> nn.Module:
    """The named classifier, or the data set's standard one without its weights."""
    return load_classifier(config.model, describe(config.data)) if config.model else _standard(config.data)


def _standard(data: str) -> nn.Module:
    if data not in STANDARD:
        raise ValueError(f"{data} has no standard classifier; name one with --model or --classifier")
    return network_of(STANDARD[data]())


def _behind(choice: PurifierSettings, config: Evaluation, classifier: nn.Module) -> Defended:
    device = next(classifier.parameters()).device
    return Defended(build_purifier(choice, describe(config.data), device, classifier=classifier), classifier).eval()


def _networks_in(purifier: Purifier, classifier: nn.Module) -> tuple[nn.Module, ...]:
    """The network of a purifier that was built from its files."""
    inner = getattr(purifier, "purifier", purifier)
    found = [getattr(inner, name, None) for name in ("model", "autoencoder")]
    return tuple(one for one in found if isinstance(one, nn.Module) and one is not classifier)
