"""What a pass of a classifier takes, alone or behind a purifier: forward, and backward through each rule."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rp_attacks.forecast import judging_passes, passes_of
from rp_attacks.problem import Attack
from rp_models.data import DatasetInfo
from rp_purify import NoPurification, Purifier
from rp_purify.build import purifier_around
from rp_purify.settings import PurifierSettings
from torch import Tensor, nn

from rp_experiments.estimate.counting import counted, fake_images, faked, weights

FEW = 2  # images of a pass whose operations are counted
_STEPS = ("steps", "reverse_steps")  # settings that count a purifier's steps, all of which take the same
_LENGTHS = (2, 3)  # that are counted


@dataclass(frozen=True, kw_only=True)
class PassCost:
    """What one pass takes; bytes for a batch of `batch` images."""

    forward: float  # operations of an image
    backward: Mapping[str, float]  # beyond the forward pass, by backward rule
    fixed: float  # bytes of weights
    memory: float  # bytes at the largest moment of a pass with its gradient
    batch: int

    def of(self, attack: Attack, classes: int) -> float | None:
        """The most operations that an attack makes for an image; None where its passes are not known."""
        passes = passes_of(attack, classes)
        if passes is None:
            return None
        rule = str(getattr(attack, "grad", "exact"))
        return passes.forward * self.forward + passes.backward * self.backward.get(rule, max(self.backward.values()))


def rules_of(attacks: Mapping[str, Attack]) -> list[str]:
    """The backward rules that attacks take."""
    return list(dict.fromkeys(str(getattr(attack, "grad", "exact")) for attack in attacks.values())) or ["exact"]


def evaluation_flop(
    cost: PassCost, attacks: Mapping[str, Attack], *, images: int, classes: int, random: bool, passes: int | None
) -> tuple[float, list[str]]:
    """The most operations of an evaluation, and the attacks whose passes are not known and so left out."""
    each = {name: cost.of(attack, classes) for name, attack in attacks.items()}
    judging = judging_passes(attacks, random=random, passes=passes) * cost.forward
    known = sum(flop for flop in each.values() if flop is not None)
    return images * (known + judging), [name for name, flop in each.items() if flop is None]


def pass_cost(
    classifier: nn.Module,
    info: DatasetInfo,
    *,
    purifier: PurifierSettings | None = None,
    networks: tuple[nn.Module, ...] = (),
    rules: Sequence[str] = ("exact",),
    batch: int,
) -> PassCost:
    """Count a pass with its gradient through each rule; the networks have no values afterwards, if they had any."""
    modules = [classifier, *networks]
    for module in modules:
        module.eval().requires_grad_(False)
    lengths = _LENGTHS if _steps_of(purifier) else (0,)
    purifiers = [_around(_of_length(purifier, length), networks) for length in lengths]
    rules = list(dict.fromkeys(rules)) if purifiers[0] is not None else ["exact"]
    with faked(modules):
        forward, backward = _operations(classifier, info, purifier, purifiers, rules)
        memory = max(_pass(classifier, info, purifiers[0], rule, batch)[1] for rule in rules)
        fixed = weights(modules)
    gc.collect()
    return PassCost(forward=forward, backward=backward, fixed=fixed, memory=fixed + memory, batch=batch)


def _operations(
    classifier: nn.Module,
    info: DatasetInfo,
    settings: PurifierSettings | None,
    purifiers: Sequence[Purifier | None],
    rules: Sequence[str],
) -> tuple[float, dict[str, float]]:
    """Of an image; those of a purifier with many steps from what a further step takes."""
    found = []
    for purifier in purifiers:
        with torch.no_grad():
            x, _, index = fake_images(info, FEW)
            alone = counted(lambda p=purifier, x=x, index=index: _logits(classifier, p, x, index)).total  # type: ignore[misc]
        found.append({"": alone, **{rule: _pass(classifier, info, purifier, rule, FEW)[0] for rule in rules}})
    last = found[0]
    if len(found) > 1:
        first, second = found
        more = _length(settings, _steps_of(settings)) - _LENGTHS[0]
        last = {key: first[key] + more * (second[key] - first[key]) for key in first}
    return last[""] / FEW, {rule: max(last[rule] - last[""], 0) / FEW for rule in rules}


def _pass(
    classifier: nn.Module, info: DatasetInfo, purifier: Purifier | None, rule: str, count: int
) -> tuple[int, int]:
    """Operations and bytes of a pass with its gradient in the images."""
    x, _, index = fake_images(info, count)
    ruled = purifier if purifier is None or rule == "exact" else purifier.with_gradient(rule)

    def work() -> object:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(_logits(classifier, ruled, leaf, index).float().sum(), leaf)

    found = counted(work)
    return found.total, found.peak


def _logits(classifier: nn.Module, purifier: Purifier | None, x: Tensor, index: Tensor) -> Tensor:
    """Without the checks of values, of which there are none."""
    if purifier is not None and purifier.grad == "identity":
        with torch.no_grad():
            purified = purifier.purify(x.detach(), seed=0, index=index)
        x = x + (purified - x).detach()
    elif purifier is not None:
        x = purifier.purify(x, seed=0, index=index)
    logits: Tensor = classifier(x)
    return logits


def _around(settings: PurifierSettings | None, networks: tuple[nn.Module, ...]) -> Purifier | None:
    purifier = None if settings is None else purifier_around(settings, *networks).eval()
    return None if isinstance(purifier, NoPurification) else purifier


def _steps_of(settings: PurifierSettings | None) -> str:
    """The setting that counts the steps; "" where there is none, or too few to save anything."""
    if getattr(settings, "solver", "sde") not in ("sde", "ode"):  # whose steps are those of the time
        return ""
    names = [name for name in _STEPS if hasattr(settings, name) and _length(settings, name) > _LENGTHS[-1]]
    return names[0] if names else ""


def _length(settings: Any, name: str) -> int:
    value = getattr(settings, name)
    return int(settings.times if value is None and name == "reverse_steps" else value)


def _of_length(settings: PurifierSettings | None, length: int) -> PurifierSettings | None:
    name = _steps_of(settings)
    return replace(settings, **{name: length}) if name else settings  # type: ignore[type-var]
