"""A twin of a model: the same weights in other module objects, some of which call their forward pass otherwise."""

import copy
import functools
from collections.abc import Callable
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from rp_attacks.identity import FOREIGN

Call = Callable[..., Any]
"""(forward of the layer, its arguments) to what it answers."""


class Twins:
    """Copies of models and of what holds them, which share tensors and whatever holds no module.

    Followed are modules (with hooks, containers and attributes), lists, dictionaries, bound methods, partial functions,
    functions with what they close over or take from their file, and objects of classes outside torch and the standard
    library. Compiled networks are copied as they were before compilation.
    """

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no address is used twice

    def replace(self, layer: nn.Module, call: Call) -> None:
        """Let the twin of this layer answer by `call(forward, *args, **kwargs)`."""
        self._calls[id(layer)] = call

    def of(self, thing: Any) -> Any:
        """The twin, or the thing itself where it holds no module."""
        if id(thing) in self._made:
            return self._made[id(thing)]
        self._kept.append(thing)
        self._made[id(thing)] = thing  # while it is followed, for circles through plain objects
        self._made[id(thing)] = made = self._make(thing)
        return made

    def _make(self, thing: Any) -> Any:
        if isinstance(thing, nn.Module):
            return self._module(thing)
        if isinstance(thing, dict):
            return self._changed(thing, {key: self.of(value) for key, value in thing.items()}, self._dictionary)
        if type(thing) in (list, tuple):
            return self._changed(thing, dict(enumerate(map(self.of, thing))), lambda one, new: type(one)(new.values()))
        if isinstance(thing, MethodType):
            owner = self.of(thing.__self__)
            return thing if owner is thing.__self__ else MethodType(thing.__func__, owner)
        if isinstance(thing, functools.partial):
            parts = (thing.func, thing.args, thing.keywords)
            func, args, keywords = map(self.of, parts)
            same = all(a is b for a, b in zip(parts, (func, args, keywords), strict=True))
            return thing if same else functools.partial(func, *args, **keywords)
        if isinstance(thing, FunctionType):
            eager = getattr(thing, "_torchdynamo_orig_callable", thing)
            return eager if _foreign(eager.__module__) else self._function(eager)
        if isinstance(thing, type) or _foreign(type(thing).__module__) or not hasattr(thing, "__dict__"):
            return thing
        return self._changed(thing, {key: self.of(value) for key, value in vars(thing).items()}, _object)

    def _module(self, module: nn.Module) -> nn.Module:
        if isinstance(module, torch.jit.ScriptModule):
            return module
        if "_orig_mod" in module._modules:
            made: nn.Module = self.of(module._modules["_orig_mod"])
            return made
        twin = module.__class__.__new__(module.__class__)
        self._made[id(module)] = twin
        vars(twin).update({key: self.of(value) for key, value in vars(module).items() if key != "_compiled_call_impl"})
        for table in ("_parameters", "_buffers"):  # whatever the twin assigns stays its own
            vars(twin)[table] = vars(module)[table].copy()
        if id(module) in self._calls:
            _answer_by(twin, self._calls[id(module)])
        return twin

    def _function(self, function: FunctionType) -> FunctionType:
        cells = function.__closure__ or ()
        inner = [self._cell(cell) for cell in cells]
        used = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
        news = {name: new for name, value in used.items() if (new := self.of(value)) is not value}
        defaults = self.of(function.__defaults__)
        if not news and defaults is function.__defaults__ and all(a is b for a, b in zip(cells, inner, strict=True)):
            return function
        names = {**function.__globals__, **news}
        made = FunctionType(function.__code__, names, function.__name__, defaults, tuple(inner))
        made.__kwdefaults__ = self.of(function.__kwdefaults__)
        return made

    def _cell(self, cell: CellType) -> CellType:
        try:
            inside = cell.cell_contents
        except ValueError:  # not assigned yet
            return cell
        new = self.of(inside)
        return cell if new is inside else CellType(new)

    @staticmethod
    def _dictionary(old: dict[Any, Any], new: dict[Any, Any]) -> dict[Any, Any]:
        made = old.copy()
        made.update(new)
        return made

    @staticmethod
    def _changed(thing: Any, new: dict[Any, Any], build: Callable[[Any, dict[Any, Any]], Any]) -> Any:
        old = thing.items() if isinstance(thing, dict) else vars(thing).items() if hasattr(thing, "__dict__") else None
        pairs = dict(enumerate(thing) if old is None else old)
        return thing if all(new[key] is value for key, value in pairs.items()) else build(thing, new)


def _foreign(module: str | None) -> bool:
    return (module or "").split(".")[0] in FOREIGN


def _object(old: Any, new: dict[str, Any]) -> Any:
    made = copy.copy(old)
    for key, value in new.items():
        object.__setattr__(made, key, value)
    return made


def _answer_by(twin: nn.Module, call: Call) -> None:
    """Another forward pass, by the class, since replicas of a module are made by it."""
    kind = type(twin)
    own = vars(twin).pop("forward", None)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return call(own or functools.partial(kind.forward, self), *args, **kwargs)

    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    twin.__class__ = type(kind.__name__, (kind,), names)
