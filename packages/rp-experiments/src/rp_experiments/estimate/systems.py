"""What a pass of a classifier takes, alone or behind a purifier: forward, and backward through each rule."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rp_attacks.forecast import judging_passes, passes_of
from rp_attacks.problem import Attack
from rp_models.arithmetic import Flops
from rp_models.data import DatasetInfo
from rp_purify import NoPurification, Purifier
from rp_purify.build import build_purifier, purifier_around
from rp_purify.settings import PurifierSettings
from torch import Tensor, nn

from rp_experiments.content import address
from rp_experiments.estimate.counting import counted, fake_images, faked, weights
from rp_experiments.estimate.stages import Stage

_STEPS = ("steps", "reverse_steps")  # settings that count a purifier's steps, all of which take the same
_MANY = 3  # steps from which on only two lengths are counted
_NO_COST = (
    "mae",
    "model",
    "autoencoder",
    "auxiliary_model",
    "step_size",
    "eta",
    "lr",
    "weight",
    "sigma",
    "std",
    "seed",
)
OF_DATA = ("mean", "std", "num_classes")  # arguments of a network on which hardly anything depends
_COUNTED: dict[str, Flops] = {}


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


def attacked(
    cost: PassCost,
    attacks: Mapping[str, Attack],
    info: DatasetInfo,
    *,
    images: int,
    random: bool,
    passes: int | None,
) -> Stage:
    """The attacks at their full length on every image, verdicts and controls."""
    each = {name: cost.of(attack, info.num_classes) for name, attack in attacks.items()}
    judging = judging_passes(attacks, random=random, passes=passes if random else 1) * cost.forward
    flop = images * (sum(flop for flop in each.values() if flop is not None) + judging)
    unknown = [name for name, flop in each.items() if flop is None]
    missing = f", without {', '.join(unknown)}" if unknown else ""
    note = f"{images:,} images, at most: none falls early{missing}"
    return Stage(name="", flop=flop, memory=cost.memory, batch=cost.batch, note=note)


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
    system = _System(classifier, info, purifier, networks)
    rules = list(dict.fromkeys(rules)) if purifier is not None and purifier.kind != "none" else ["exact"]
    forward = system.flop("", batch)
    backward = {rule: max(system.flop(rule, batch) - forward, 0.0) for rule in rules}
    memory = max(system.memory(rule, batch) for rule in rules)
    fixed = weights(modules)
    gc.collect()
    return PassCost(forward=forward, backward=backward, fixed=fixed, memory=fixed + memory, batch=batch)


@dataclass(frozen=True)
class _System:
    """A classifier, alone or behind a purifier of these settings around these networks."""

    classifier: nn.Module
    info: DatasetInfo
    settings: PurifierSettings | None
    networks: tuple[nn.Module, ...]

    def flop(self, rule: str, batch: int) -> float:
        """Operations of an image in a pass with its gradient through a rule, "" for a pass alone.

        Those of a purifier with many steps follow from what a further step takes.
        """
        found = [self._counted(rule, batch, length).total / batch for length in self._lengths]
        if len(found) == 1:
            return found[0]
        more = _length(self.settings, _steps_of(self.settings)) - self._lengths[0]
        return found[0] + more * (found[1] - found[0])

    def memory(self, rule: str, batch: int) -> int:
        """The most bytes of a pass with its gradient, but for the weights."""
        return self._counted(rule, batch, self._lengths[-1]).peak

    @property
    def _lengths(self) -> tuple[int, ...]:
        first = 2 if self.settings is not None and self.settings.kind == "edm-purify" else 1  # its fewest steps
        return (first, first + 1) if _steps_of(self.settings) else (0,)

    def _counted(self, rule: str, count: int, length: int) -> Flops:
        """A pass of so many images through a purifier of so many steps; counted once for all systems like this."""
        name = self._name(rule, count, length)
        if name is None:
            return self._pass(rule, count, length)
        if name not in _COUNTED:
            _COUNTED[name] = self._pass(rule, count, length)
        return _COUNTED[name]

    def _name(self, rule: str, count: int, length: int) -> str | None:
        """What the count depends on; None where that is not known, of networks that are not the zoo's."""
        recipes = [getattr(module, "recipe", None) for module in (self.classifier, *self.networks)]
        if any(recipe is None for recipe in recipes):
            return None
        given = _of_length(self.settings, length)
        settings = {} if given is None else asdict(given)
        kept = {key: value for key, value in settings.items() if key not in _NO_COST}
        built = [(one.name, {k: v for k, v in one.arguments.items() if k not in OF_DATA}) for one in recipes]  # type: ignore[union-attr]
        size = (self.info.channels, self.info.image_size)
        return address([built, kept, size, rule, count], size=16)

    def _pass(self, rule: str, count: int, length: int) -> Flops:
        purifier = self.around(length)
        with faked([self.classifier, *self.networks]):
            x, _, index = fake_images(self.info, count)
            if not rule:
                with torch.no_grad():
                    return counted(lambda: _logits(self.classifier, purifier, x, index))
            ruled = purifier if purifier is None or rule == "exact" else purifier.with_gradient(rule)

            def work() -> object:
                leaf = x.detach().requires_grad_()
                return torch.autograd.grad(_logits(self.classifier, ruled, leaf, index).float().sum(), leaf)

            return counted(work)

    def around(self, length: int) -> Purifier | None:
        """The purifier, of so many steps where they are counted; None where there is none."""
        if self.settings is None:
            return None
        settings = _of_length(self.settings, length)
        assert settings is not None
        purifier = purifier_of(settings, self.info, self.networks, self.classifier).eval()
        return None if isinstance(purifier, NoPurification) else _worked_out(purifier)


def _worked_out(purifier: Purifier) -> Purifier:
    """A purifier whose times and levels are numbers from here on, where tensors still have values."""
    for inner in purifier.modules():
        if isinstance(inner, Purifier) and isinstance(getattr(type(inner), "rounds", None), property):
            kind: Any = type(inner)
            inner.__class__ = type(kind.__name__, (kind,), {"rounds": inner.rounds})
    return purifier


def purifier_of(
    settings: PurifierSettings, info: DatasetInfo, networks: tuple[nn.Module, ...], classifier: nn.Module
) -> Purifier:
    """The purifier of these settings around networks and the classifier that it may ask."""
    if settings.kind == "soap":
        return build_purifier(settings, info, next(classifier.parameters()).device, classifier=classifier)
    return purifier_around(settings, *networks, *([classifier] if settings.kind == "coup" else []))


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


def _steps_of(settings: PurifierSettings | None) -> str:
    """The setting that counts the steps; "" where there is none, or too few to save anything."""
    of_times = getattr(settings, "solver", "sde") not in ("sde", "ode")  # whose steps are those of the time
    names = ("times",) if of_times else _STEPS
    found = [name for name in names if hasattr(settings, name) and _length(settings, name) > _MANY]
    return found[0] if found else ""


def _length(settings: Any, name: str) -> int:
    value = getattr(settings, name)
    return int(settings.times if value is None and name == "reverse_steps" else value)


def _of_length(settings: PurifierSettings | None, length: int) -> PurifierSettings | None:
    name = _steps_of(settings)
    return replace(settings, **{name: length}) if name else settings  # type: ignore[type-var]
