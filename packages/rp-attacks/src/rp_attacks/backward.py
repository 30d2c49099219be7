"""Other backward rules for the inner layers of any network, its forward pass staying the true one (BPDA).

Source: Athalye et al. 2018, arXiv:1802.00420 (backward pass differentiable approximation).
"""

import fnmatch
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from rp_attacks.defence import Classifier, OffersGradients, Randomised
from rp_attacks.defence import with_gradient as defence_with_gradient
from rp_attacks.identity import modules
from rp_attacks.twins import Twins

Selector = str | type[nn.Module] | Callable[..., Any]
"""A class of layers, a dotted name or a glob of names, a predicate of (name, layer), or a function of torch."""


@dataclass(frozen=True, slots=True)
class VJP:
    """A backward rule of one's own: (input, output, gradient of the output) to the gradient of the input."""

    function: Callable[[Tensor, Tensor, Tensor], Tensor]


Rule = Literal["identity"] | Callable[..., Tensor] | VJP
"""The identity; a differentiable surrogate, called as the layer is; or a `VJP`."""


def with_backward(model: Classifier, rules: Mapping[Selector, Rule]) -> "WithBackward":
    """The model with other backward rules for some of its layers, as a defence that offers the gradient "bpda".

    The rules act on a twin of the model that shares its weights; the model itself is not changed. Of selected layers
    inside one another the outermost counts. A compiled network is followed as it was before compilation, and answers
    the same up to rounding.

    Args:
        model: a network in eval mode, or a function or an object that calls some.
        rules: by selector. A name is that in `named_modules`, and a glob ("*.act") matches whole names; a function of
            torch (`torch.round`, or "torch.round") is replaced wherever the model calls it, also as a method.

    Returns:
        A classifier with `gradients` ("exact", those of the model, "bpda"), for `PGD(grad="bpda")` and the like; its
        gradient is the exact one until another is chosen. Under "bpda" a call raises ValueError where a rule does not
        fit: an identity over a change of shape, an answer of whole numbers, a selected layer that is never called.

    Raises:
        ValueError: a selector matches nothing; the model is in train mode (parameters inside would get no gradient) or
            a selected layer is scripted.
    """
    if not rules:
        raise ValueError("rules is empty: pass at least one, e.g. {'*.round': 'identity'}")
    named = named_layers(model)
    if training := [name or "the model itself" for name, layer in named.items() if layer.training]:
        raise ValueError(
            f"{training[0]} is in train mode, where rules would cut off parameters; call model.eval() first"
        )
    layers: dict[str, Rule] = {}
    functions: dict[str, Rule] = {}
    for selector, rule in rules.items():
        _check_rule(rule)
        function = _torch_function(selector, named)
        if function is not None:
            functions[function] = rule
        else:
            layers.update(dict.fromkeys(_matches(selector, named), rule) | layers)
    outermost = [name for name in layers if not any(_inside(name, other) for other in layers)]
    once = {id(named[name]): name for name in reversed(outermost)}  # a shared layer has several names
    if scripted := [name for name in once.values() if isinstance(named[name], torch.jit.ScriptModule)]:
        raise ValueError(f"layer {scripted[0]!r} is scripted, and takes no other backward rule; pass the eager network")
    kind = _RandomWithBackward if isinstance(model, Randomised) else WithBackward
    return kind(model, {name: layers[name] for name in once.values()}, functions)


def named_layers(model: Classifier) -> dict[str, nn.Module]:
    """The layers of a network, a function or an object by dotted names, a shared layer under each of its names."""
    found = modules(model)
    if isinstance(model, nn.Module) and "" in found:
        found.update(found[""].named_modules(remove_duplicate=False))
    return found


class WithBackward(nn.Module):
    """A model that offers its exact gradient, those that it offers itself, and that of other backward rules."""

    def __init__(self, model: Classifier, layers: Mapping[str, Rule], functions: Mapping[str, Rule]) -> None:
        super().__init__()
        self.model, self.layers, self.functions = model, dict(layers), dict(functions)
        self.training = False

    @property
    def gradients(self) -> tuple[str, ...]:
        """Backward rules that are offered."""
        own: tuple[str, ...] = tuple(self.model.gradients) if isinstance(self.model, OffersGradients) else ()
        return ("exact", *(name for name in own if name not in ("exact", "bpda")), "bpda")

    def with_gradient(self, name: str) -> Classifier:
        """The model with one of these rules."""
        if name != "bpda":
            return defence_with_gradient(self.model, name)
        kind = _RandomRuled if isinstance(self.model, Randomised) else _Ruled
        return kind(self.model, self.layers, self.functions)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k), with the exact gradient."""
        return self.model(x)


class _RandomWithBackward(WithBackward):
    def with_noise(self, *, seed: int, index: Tensor) -> Classifier:
        """The model with noise from (seed, index)."""
        assert isinstance(self.model, Randomised)
        return self.model.with_noise(seed=seed, index=index)


class _Ruled(nn.Module):
    """The twin of a model whose layers and functions follow the rules."""

    def __init__(self, model: Classifier, layers: Mapping[str, Rule], functions: Mapping[str, Rule]) -> None:
        super().__init__()
        self.training = False
        self._called: set[str] = set()
        self._waiting = {*layers, *functions}
        self._functions = dict(functions)
        named = named_layers(model)
        twins = Twins()
        for name, rule in layers.items():
            twins.replace(named[name], partial(self._follow, name=name, rule=rule))
        self.model: Classifier = twins.of(model)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k); the gradient is that of the rules."""
        return self._asked(self.model, x)

    def _asked(self, model: Classifier, x: Tensor) -> Tensor:
        with _FunctionRules(self._functions, self._follow) if self._functions else nullcontext():
            logits = model(x)
        if torch.is_grad_enabled() and (idle := self._waiting - self._called):
            raise ValueError(
                f"{sorted(idle)[0]!r} has a backward rule but is not called in the forward pass: remove it"
            )
        return logits

    def _follow(self, call: Callable[..., Any], *args: Any, name: str, rule: Rule, **kwargs: Any) -> Any:
        self._called.add(name)
        if torch.is_grad_enabled() and any(part.requires_grad for part in floating((args, kwargs))):
            return follow(rule, call, args, kwargs, name)
        return call(*args, **kwargs)


class _RandomRuled(_Ruled):
    def with_noise(self, *, seed: int, index: Tensor) -> Classifier:
        """The twin with noise from (seed, index)."""
        assert isinstance(self.model, Randomised)
        return partial(self._asked, self.model.with_noise(seed=seed, index=index))


def follow(rule: Rule, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Tensor:
    """What `call` answers, bit by bit, with the backward pass of the rule.

    It is called on copies, so that a layer which works in place cannot change the input that the rule differentiates.
    """
    inputs = floating((args, kwargs))
    copied, options = tree_map_only(Tensor, Tensor.clone, (args, kwargs))
    output = call(*copied, **options)
    if not isinstance(output, Tensor) or not output.is_floating_point() or not inputs:
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"{name!r} gives {kind} from {len(inputs)} floating tensors, and a backward rule needs a floating tensor "
            "from at least one: select the layer around it"
        )
    output = output.detach()
    if isinstance(rule, VJP):
        result: Tensor = _OwnRule.apply(inputs[0], output, rule.function)
        return result
    stand_in = inputs[0] if isinstance(rule, str) else rule(*args, **kwargs)
    if not isinstance(stand_in, Tensor) or stand_in.shape != output.shape:
        got = tuple(stand_in.shape) if isinstance(stand_in, Tensor) else type(stand_in).__name__
        raise ValueError(
            f"the backward rule of {name!r} gives {got}, and the forward pass {tuple(output.shape)}; the identity "
            "needs equal shapes: pass a surrogate of the right shape or a VJP"
        )
    result = _StandIn.apply(stand_in, output)
    return result


def floating(arguments: Any) -> list[Tensor]:
    """The floating tensors among the arguments of a call, in order."""
    leaves = torch.utils._pytree.tree_leaves(arguments)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


class _StandIn(torch.autograd.Function):
    """The second argument, with the derivative of the first."""

    @staticmethod
    def forward(ctx: Any, stand_in: Tensor, output: Tensor) -> Tensor:
        ctx.precision = stand_in.dtype
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0].to(ctx.precision), None


class _OwnRule(torch.autograd.Function):
    """The output, with a derivative that the caller's function reckons."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x, output)
        ctx.function = function
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        x, output = ctx.saved_tensors
        grad = ctx.function(x, output, grad_outputs[0])
        if grad.shape != x.shape:
            raise ValueError(f"the VJP gives {tuple(grad.shape)} for an input {tuple(x.shape)}; both must agree")
        return grad, None, None


class _FunctionRules(TorchFunctionMode):
    """Functions of torch follow their rules while the mode lasts."""

    def __init__(self, rules: Mapping[str, Rule], follow: Callable[..., Any]) -> None:
        super().__init__()
        self._rules, self._follow = rules, follow

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name.removesuffix("_") in self._rules and name.endswith("_") and torch.is_grad_enabled():
            raise ValueError(f"the model calls {name} in place, which takes no backward rule: use {name[:-1]} there")
        if name not in self._rules:
            return func(*args, **(kwargs or {}))
        return self._follow(func, *args, name=name, rule=self._rules[name], **(kwargs or {}))


def _check_rule(rule: Rule) -> None:
    if rule != "identity" and not isinstance(rule, VJP) and not callable(rule):
        raise ValueError(f"a backward rule is 'identity', a function or a VJP, got {rule!r}")


def _matches(selector: Selector, named: Mapping[str, nn.Module]) -> list[str]:
    """The names of the layers that a selector means."""
    if isinstance(selector, str):
        found = [selector] if selector in named else [n for n in named if n and fnmatch.fnmatchcase(n, selector)]
    elif isinstance(selector, type):
        found = [name for name, layer in named.items() if isinstance(layer, selector)]
    else:
        found = [name for name, layer in named.items() if selector(name, layer)]
    if not found:
        names = ", ".join(name for name in [*named][:12] if name) or "none"
        raise ValueError(f"no layer matches {selector!r}; the model's layers are {names}{' ...' * (len(named) > 12)}")
    return found


def _torch_function(selector: Selector, named: Mapping[str, nn.Module]) -> str | None:
    """The name of the function of torch that a selector means, if it means one."""
    if isinstance(selector, str):
        if selector in named or not selector.startswith("torch."):
            return None
        name = selector.rpartition(".")[2]
        if not any(hasattr(place, name) for place in (torch, Tensor, nn.functional)):
            raise ValueError(f"torch has no function {selector!r}")
        return name
    home = getattr(selector, "__module__", None) or "torch"  # builtins and methods have none
    return None if isinstance(selector, type) or home.split(".")[0] != "torch" else str(selector.__name__)


def _inside(name: str, other: str) -> bool:
    return name != other and (other == "" or name.startswith(other + "."))
