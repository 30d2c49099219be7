"""Which layers of a network mask its gradient: found by comparing each layer's gradient with how its answer changes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from rp_attacks import noise
from rp_attacks.backward import WithBackward, floating, named_layers, with_backward
from rp_attacks.defence import Classifier, query
from rp_attacks.problem import differentiating
from rp_attacks.rng import PrivateStream
from rp_attacks.twins import Twins

_STEPS = frozenset({"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "frac"})
_IMAGES, _DIRECTIONS = 8, 2  # images, directions of the answer
_NODES = (16, 128)  # points on each path; many where few leave a doubt, since a sum over few misses kinks too
_LEAF, _WHOLE = 0.1, 0.5  # shares of the change that a gradient may leave unexplained, in one layer and in several
_PART = 0.25  # of the way to another image, for several layers together, whose gradient changes faster


class Suspect(NamedTuple):
    """A layer, or a function of torch, whose gradient does not tell how its answer changes."""

    name: str
    """Its dotted name, a selector of `with_backward`; "torch.round" for a function, "" for the model as a whole."""
    text: str
    """What is wrong with its gradient."""


def suspects(model: Classifier, x: Tensor, *, index: Tensor | None = None) -> list[Suspect]:
    """The layers that mask the gradient: zero, absent, wrong, or blind to jumps.

    On the way from one image's input of a layer to another's, the mean directional derivative must equal the change of
    the answer. It does for all continuous layers (ReLU and pooling too), and not for rounding, thresholds, detached
    tensors and wrong backward passes. Each layer is tested alone, on the first eight images, and one that holds others
    only where none inside is found.

    Args:
        model: a network in eval mode, or a function or an object that calls some.
        x: images (b, c, h, w) in [0, 1]; two at least tell more than one.
        index: int64 (b,), image indices of a random defence.

    Returns:
        The suspects, outermost layers left out; none for a model that answers differently when asked again.
    """
    x = x[:_IMAGES].detach().float()
    index = torch.arange(len(x), device=x.device) if index is None else index[: len(x)]
    with differentiating():
        calls = _Calls(model)
        whole = partial(query, calls.twin, seed=0, index=index)
        with PrivateStream(0)(x.device), calls:
            whole(x.clone().requires_grad_())
        found: list[Suspect] = []
        for name in sorted(calls.seen, key=lambda name: (-name.count("."), name)):
            call, inputs = calls.seen[name]
            inside = any(suspect.name.startswith(name + ".") for suspect in found)
            if name and not inside and (text := _doubt(call, inputs, calls.holds_others(name))):
                found.append(Suspect(name, text))
        if not found and (text := _doubt(whole, x, True)):
            found.append(Suspect("", text))
        return [better for suspect in found for better in calls.functions_in(suspect)]


def through_suspects(
    model: Classifier, x: Tensor, *, index: Tensor | None = None
) -> tuple[WithBackward | None, list[Suspect]]:
    """The model whose gradient "bpda" is the identity through all suspects that keep the shape, and the suspects.

    Returns:
        None in place of the model where nothing is suspected, or no suspect keeps the shape of its input.
    """
    found = suspects(model, x, index=index)
    fitting = [suspect.name for suspect in found if suspect.name and _fits(model, suspect.name, x[:2], index)]
    return with_backward(model, dict.fromkeys(fitting, "identity")) if fitting else None, found


def _fits(model: Classifier, name: str, x: Tensor, index: Tensor | None) -> bool:
    rows = torch.arange(len(x), device=x.device) if index is None else index[: len(x)]
    try:
        with differentiating(), PrivateStream(0)(x.device):
            leaf = x.detach().clone().requires_grad_()
            ruled = with_backward(model, {name: "identity"}).with_gradient("bpda")
            query(ruled, leaf, seed=0, index=rows).sum().backward(inputs=[leaf])
    except (ValueError, RuntimeError):
        return False
    return True


class _Calls(TorchFunctionMode):
    """The first call of each layer on the way from the images to the answer, and the step functions called in each."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.seen: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {}
        self._layers, self._within = named_layers(model), [""]
        self._steps: dict[str, set[str]] = {}
        self._recording = False
        twins = Twins()
        for name, layer in self._layers.items():
            if not isinstance(layer, torch.jit.ScriptModule):
                twins.replace(layer, partial(self._record, name=name))
        self.twin = twins.of(model)

    def __enter__(self) -> "_Calls":
        self._recording = True
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._recording = False
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _STEPS and any(part.requires_grad for part in floating((args, kwargs))):
            self._steps.setdefault(self._within[-1], set()).add(name)
        return func(*args, **(kwargs or {}))

    def _record(self, call: Callable[..., Any], *args: Any, name: str, **kwargs: Any) -> Any:
        if not self._recording:
            return call(*args, **kwargs)
        parts = floating((args, kwargs))
        moving = next((number for number, part in enumerate(parts) if part.requires_grad), None)
        if moving is not None and name not in self.seen:
            copied, options = tree_map_only(Tensor, lambda part: part.detach().clone(), (args, kwargs))
            self.seen[name] = partial(_call_at, call, copied, options, moving), parts[moving].detach().clone()
        self._within.append(name)
        try:
            return call(*args, **kwargs)
        finally:
            self._within.pop()

    def holds_others(self, name: str) -> bool:
        """Whether the layer calls other layers."""
        return any(True for _ in self._layers[name].children())

    def functions_in(self, suspect: Suspect) -> list[Suspect]:
        """The step functions that a layer of several calls itself, or the suspect as it is."""
        within = {"", *(name for name in self._layers if not name)} if not suspect.name else {suspect.name}
        if suspect.name and not self.holds_others(suspect.name):
            return [suspect]
        steps = sorted({f"torch.{step}" for name in within for step in self._steps.get(name, ())})
        return [Suspect(step, suspect.text) for step in steps] or [suspect]


def _call_at(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], moving: int, at: Tensor
) -> list[Tensor]:
    """The floating answers of a layer for another value of one of its floating arguments."""
    count = iter(range(len(tree_leaves((args, kwargs)))))

    def fill(part: Tensor) -> Tensor:
        return (at.clone() if next(count) == moving else part.clone()) if part.is_floating_point() else part

    copied, options = tree_map_only(Tensor, fill, (args, kwargs))
    return floating(call(*copied, **options))


def _doubt(call: Callable[[Tensor], Any], x: Tensor, several: bool) -> str:
    """What is wrong with the gradient of a call at x, or nothing."""
    way = (_another(x) - x) * (_PART if several else 1.0)
    start, again, end = (_answer(call, at) for at in (x, x, x + way))
    if len(start) == 0 or not torch.equal(start, again) or not (end - start).isfinite().all():
        return ""
    for nodes in _NODES:
        change, explained = _changes(call, x, way, end - start, nodes)
        size = max(change.norm().item(), explained.norm().item())
        missing = (change - explained).norm().item() / size if size > 0 else 0.0
        if not missing > (_WHOLE if several else _LEAF):
            return ""
    if not explained.any():
        return "its gradient is exactly zero, or there is none, although its answer changes from image to image"
    return (
        f"its gradient does not tell how its answer changes from image to image ({missing:.0%} of the change is not "
        "explained by it): the answer jumps, or the backward pass is wrong"
    )


def _another(x: Tensor) -> Tensor:
    """The next row's input, or where there is one row alone a random one near it."""
    if len(x) > 1:
        return x.roll(1, dims=0)
    index = torch.zeros(1, dtype=torch.int64, device=x.device)
    draws = noise.uniform(x.shape[1:], seed=0, purpose="other", index=index, like=x)
    return x + x.std().clamp_min(1e-6) * (2 * draws - 1)


def _answer(call: Callable[[Tensor], Any], at: Tensor) -> Tensor:
    with torch.no_grad(), PrivateStream(0)(at.device):
        return _joined(call(at))


def _joined(answers: Any) -> Tensor:
    """All floating answers as one row of numbers for each row of the first, (rows, ...)."""
    parts = floating(answers)
    if not parts:
        return torch.empty(0)
    rows = len(parts[0]) if all(part.dim() and len(part) == len(parts[0]) for part in parts) else 1
    return torch.cat([part.reshape(rows, -1) for part in parts], dim=1)


def _changes(
    call: Callable[[Tensor], Any], x: Tensor, way: Tensor, change: Tensor, nodes: int
) -> tuple[Tensor, Tensor]:
    """The change along random directions of the answer, and the gradient's integral, (directions, rows) in float64."""
    rows = len(change) if len(change) == len(x) else 1
    index = torch.arange(len(change), device=x.device)
    signs = [
        noise.uniform(change.shape[1:], seed=number, purpose="sign", index=index, like=change).sub(0.5).sign()
        for number in range(_DIRECTIONS)
    ]
    explained = torch.zeros(_DIRECTIONS, rows, dtype=torch.float64, device=x.device)
    for node in range(nodes):
        leaf = (x + (node + 0.5) / nodes * way).requires_grad_()
        with PrivateStream(0)(x.device):
            answer = _joined(call(leaf))
            for number, sign in enumerate(signs):
                if answer.requires_grad:
                    (grad,) = torch.autograd.grad(answer, leaf, sign, retain_graph=True, allow_unused=True)
                    if grad is not None:
                        slopes = (grad.double() * way.double()).reshape(rows, -1).sum(dim=1)
                        explained[number] += slopes.nan_to_num() / nodes
    return torch.stack([(change.double() * sign).reshape(rows, -1).sum(dim=1) for sign in signs]), explained
