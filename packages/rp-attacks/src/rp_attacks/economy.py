"""Work that an evaluation need not do: attacks that are the same one, and passes that fit into one batch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rp_attacks.defence import Classifier, query, with_gradient
from rp_attacks.eot import NoGradientError, input_gradient
from rp_attacks.identity import modules
from rp_attacks.losses import cw_margin
from rp_attacks.problem import Attack, differentiating
from rp_attacks.rng import PrivateStream
from rp_attacks.watch import uncounted

IMAGES = 8  # on which two backward rules are compared
MOST_CUT = 0.75  # share of entries that one rule may cut to zero where another does not
TOLERANCE = 1e-4  # of two gradients, relative to the larger one of their largest entries


class Same(NamedTuple):
    """An attack that another one stands for."""

    other: str
    """Name of the attack that is run."""
    differing: float
    """Share of the gradient's entries where the two differ: this attack's is zero there, and the other's is not."""


def fit_chunk(attack: Any, images: int, batch_size: int) -> Any:
    """The attack with as many EOT passes in one batch as make about `batch_size` images; its result is the same."""
    inner = getattr(attack, "attack", None)
    if is_dataclass(attack) and inner is not None and not hasattr(attack, "passes"):
        return replace(attack, attack=fit_chunk(inner, images, batch_size))  # type: ignore[type-var]
    if not is_dataclass(attack) or not {"eot", "eot_chunk"} <= {field.name for field in fields(attack)}:
        return attack
    chunk = min(getattr(attack, "eot"), max(batch_size // max(images, 1), 1))  # noqa: B009
    return replace(attack, eot_chunk=max(chunk, getattr(attack, "eot_chunk")))  # type: ignore[type-var]  # noqa: B009


def network_calls(model: Classifier, x: Tensor, index: Tensor) -> int:
    """How often the busiest layer with weights runs in one pass: the calls of a purifier's network.

    1 for a classifier alone, and where no layer can be seen.
    """
    calls: Counter[int] = Counter()
    layers = [
        module for module in modules(model).values()
        if not isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters(recurse=False))
    ]  # fmt: skip

    def seen(layer: nn.Module, *_: object) -> None:
        calls[id(layer)] += 1

    hooks = [layer.register_forward_pre_hook(seen) for layer in layers]
    try:
        with torch.no_grad(), PrivateStream(0)(x.device), uncounted():
            query(model, x, seed=0, index=index)
    finally:
        for hook in hooks:
            hook.remove()
    return max(calls.values(), default=1)


def same_attacks(
    model: Classifier, x: Tensor, y: Tensor, index: Tensor, attacks: Mapping[str, Attack]
) -> dict[str, Same]:
    """Attacks that differ from another by a backward rule with the same gradient up to pixels where it is cut to zero.

    The exact gradient of sign descent is that of the identity, but for pixels that stand at a bound: of `bpda` and
    `pgd-exact` only the one that has a gradient in more pixels needs to run. Compared on a few images that lie inside
    the ball too, with the same noise.
    """
    found: dict[str, Same] = {}
    gradients: dict[str, Tensor | None] = {}
    names = list(attacks)
    for number, name in enumerate(names):
        for other in names[:number]:
            if other in found or name in found or not _differ_by_rule(attacks[name], attacks[other]):
                continue
            rules = [str(getattr(attacks[key], "grad")) for key in (name, other)]  # noqa: B009
            for rule in rules:
                if rule not in gradients:
                    gradients[rule] = _gradient(model, rule, x[:IMAGES], y[:IMAGES], index[:IMAGES])
            here, there = (gradients[rule] for rule in rules)
            if here is None or there is None:
                continue
            size = torch.maximum(here.abs().amax(), there.abs().amax())
            differ = (here - there).abs() > TOLERANCE * size
            share = float(differ.float().mean())
            if not size > 0 or share > MOST_CUT:
                continue
            if bool((here[differ] == 0).all()):
                found[name] = Same(other, share)
            elif bool((there[differ] == 0).all()):
                found[other] = Same(name, share)
    return found


def _differ_by_rule(one: Any, two: Any) -> bool:
    if type(one) is not type(two) or not is_dataclass(one) or not hasattr(one, "grad"):
        return False
    return one.grad != two.grad and replace(one, grad="exact") == replace(two, grad="exact")  # type: ignore[type-var]


def _gradient(model: Classifier, rule: str, x: Tensor, y: Tensor, index: Tensor) -> Tensor | None:
    """The margin's gradient under a backward rule at the images and a little beside; None where there is none."""
    beside = x + 0.02 * torch.sin(torch.arange(x[0].numel(), device=x.device, dtype=x.dtype)).reshape(x.shape[1:])
    both, labels, rows = torch.cat([x, beside.clamp(0, 1)]), y.repeat(2), index.repeat(2)
    with differentiating(), PrivateStream(0)(x.device):
        leaf = both.detach().requires_grad_()
        try:
            return input_gradient(cw_margin(query(with_gradient(model, rule), leaf, seed=0, index=rows), labels), leaf)
        except (NoGradientError, RuntimeError):
            return None
