"""What makes two models the same one: settings, weights, and what they answer on a few images.

Only evaluations of the same model may share a folder. A type and its weights do not tell two models apart: purifiers
differ by their steps, wrappers by a plain attribute, backward rules by nothing but their gradient. So the identity has
all that can be read off the objects, and also logits and gradients on a few images, which nothing can hide from.
"""

import dis
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rp_attacks.defence import Classifier, Randomised, query
from rp_attacks.rng import PrivateStream

IMAGES = 8  # asked, spread over those of the evaluation
_FETCHED = 2**26  # bytes of weights that are fetched from a device together
TOLERANCE = 1e-3  # of answers, which devices round differently, relative to their size
_PLAIN = (bool, int, float, complex, str, bytes, type(None), Enum, np.generic, torch.dtype)
_ELSEWHERE = (torch.device, torch.Generator, Path)  # where a model is, not what it is
_MODULE_INTERNALS = frozenset(vars(nn.Module()))


def fingerprint(*values: Tensor | np.ndarray[Any, Any]) -> str:
    """A short hash of shapes, types of number and values."""
    tensors = iter(_bytes([value for value in values if isinstance(value, Tensor)]))
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        _add(digest, value, next(tensors) if isinstance(value, Tensor) else value)
    return digest.hexdigest()


def _fingerprints(values: Sequence[Tensor]) -> Iterator[str]:
    """The fingerprint of each tensor by itself."""
    for value, content in zip(values, _bytes(values), strict=True):
        digest = hashlib.blake2b(digest_size=8)
        _add(digest, value, content)
        yield digest.hexdigest()


def _add(digest: "hashlib.blake2b", value: Tensor | np.ndarray[Any, Any], content: np.ndarray[Any, Any]) -> None:
    digest.update(f"{value.dtype} {tuple(value.shape)} ".removeprefix("torch.").encode())
    digest.update(np.ascontiguousarray(content).tobytes())


def _bytes(values: Sequence[Tensor]) -> Iterator[np.ndarray[Any, Any]]:
    """The bytes of each tensor, since numpy has no bfloat16; those of a device are fetched many at a time."""
    waiting: list[Tensor] = []
    for value in values:
        if waiting and (value.device != waiting[0].device or sum(map(len, waiting)) > _FETCHED):
            yield from _fetched(waiting)
            waiting = []
        waiting.append(value.detach().contiguous().reshape(-1).view(torch.uint8))
    if waiting:
        yield from _fetched(waiting)


def _fetched(values: list[Tensor]) -> Iterator[np.ndarray[Any, Any]]:
    if values[0].device.type == "cpu":
        yield from (value.numpy() for value in values)
    else:
        yield from (part.numpy() for part in torch.cat(values).cpu().split([len(value) for value in values]))


def identify(model: Classifier, x: Tensor, index: Tensor) -> dict[str, Any]:
    """The identity of a model as plain values for a JSON file; compare two by `alike`.

    What changes when the model is asked (counters, caches) is no part of it. "gradients" is None where there is none.
    """
    rows = torch.linspace(0, len(x) - 1, min(len(x), IMAGES)).long().to(x.device)
    first = _answers(model, x[rows], index[rows])
    before = settings(model)
    second = _answers(model, x[rows], index[rows])
    after = settings(model)
    steady = [f"{path} {value}\n" for path, value in sorted(before.items()) if after.get(path) == value]
    same = {key: value if alike(value, second[key]) else "differ" for key, value in first.items()}
    return {"type": type(_unwrapped(model)).__qualname__, "settings": _hash("".join(steady)), **same}


def identify_attack(attack: Any, x: Tensor, index: Tensor) -> dict[str, Any]:
    """The identity of an attack: its settings, and that of the model on which a transfer is made."""
    found: dict[str, Any] = {
        "type": type(attack).__qualname__,
        "settings": _hash(repr(sorted(settings(attack).items()))),
    }
    for level, source in enumerate(sources(attack)):
        found[f"source {level}"] = identify(source, x, index)
    return found


def sources(attack: Any) -> list[Classifier]:
    """The models that an attack asks in place of the one under attack."""
    source, inner = getattr(attack, "source", None), getattr(attack, "attack", None)
    return [*([] if source is None else [source]), *([] if inner is None else sources(inner))]


def alike(before: Any, now: Any) -> bool:
    """Whether two identities are equal, rows of numbers up to what devices round differently."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return before.keys() == now.keys() and all(alike(before[key], now[key]) for key in before)
    if _is_numbers(before) and _is_numbers(now):
        a, b = np.asarray(before, dtype=np.float64), np.asarray(now, dtype=np.float64)
        if a.shape != b.shape:
            return False
        size = np.where(np.isfinite(a), np.abs(a), 0.0).max(axis=1, keepdims=True, initial=0.0)
        with np.errstate(invalid="ignore"):  # a gradient may be infinite
            return bool(np.all((np.abs(a - b) <= TOLERANCE * size) | (a == b) | (np.isnan(a) & np.isnan(b))))
    return bool(before == now)


def settings(thing: Any) -> dict[str, str]:
    """All that can be read off an object: types, weights and plain values by their paths.

    Private attributes are state and not settings, and so is the seed of a random module: the caller draws its noise.
    """
    found: dict[str, str | Tensor] = {}
    _walk(thing, "", found, set())
    tensors = {path: value for path, value in found.items() if isinstance(value, Tensor)}
    hashes = dict(zip(tensors, _fingerprints([*tensors.values()]), strict=True))
    return {path: hashes[path] if isinstance(value, Tensor) else value for path, value in found.items()}


def modules(thing: Any) -> dict[str, nn.Module]:
    """The modules in an object by their paths: it may be one, wrap one, or be a function that calls some."""
    found: dict[str, nn.Module] = {}
    _walk_modules(thing, "", found, set())
    return found


def _walk(thing: Any, path: str, found: "dict[str, str | Tensor]", seen: set[int]) -> None:
    thing = _unwrapped(thing)
    if isinstance(thing, _ELSEWHERE):
        return
    found[path] = thing if isinstance(thing, Tensor) else _value(thing)
    if isinstance(thing, (*_PLAIN, Tensor, np.ndarray)) or id(thing) in seen:
        return
    seen.add(id(thing))
    for name, part in _parts(thing):
        _walk(part, f"{path}.{name}", found, seen)


def _walk_modules(thing: Any, path: str, found: dict[str, nn.Module], seen: set[int]) -> None:
    thing = _unwrapped(thing)
    if isinstance(thing, (*_PLAIN, *_ELSEWHERE, Tensor, np.ndarray)) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        found[path] = thing
    for name, part in _parts(thing):
        _walk_modules(part, f"{path}.{name}".lstrip("."), found, seen)


def _value(thing: Any) -> str:
    if isinstance(thing, _PLAIN):
        return f"{type(thing).__name__} {thing!r}"
    if isinstance(thing, np.ndarray) and thing.dtype.kind in "biufc":
        return fingerprint(thing)
    if isinstance(thing, Set):
        return f"{type(thing).__name__} {sorted(map(repr, thing))}"
    named = thing if isinstance(thing, (type, FunctionType)) else type(thing)
    return str(named.__qualname__)  # without its file, which is another one in a worker


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What an object is made of, by name."""
    if isinstance(thing, nn.Module):
        yield from _public(thing, skip=_MODULE_INTERNALS | ({"seed"} if isinstance(thing, Randomised) else set()))
        yield from (*thing.named_parameters(recurse=False), *thing.named_buffers(recurse=False))
        yield from thing.named_children()
    elif isinstance(thing, Mapping):
        yield from ((str(key), value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple)):
        yield from ((str(number), value) for number, value in enumerate(thing))
    elif isinstance(thing, FunctionType):
        yield from _uses(thing)
    elif isinstance(thing, MethodType):
        yield from [("self", thing.__self__), ("function", thing.__func__)]
    elif isinstance(thing, functools.partial):
        yield from [("function", thing.func), ("arguments", thing.args), ("options", thing.keywords)]
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield from ((field.name, getattr(thing, field.name)) for field in fields(thing))
    elif not isinstance(thing, type) and type(thing).__module__.split(".")[0] not in FOREIGN:
        yield from _public(thing)


FOREIGN = frozenset({*sys.stdlib_module_names, "torch", "numpy"} - {"__main__", "types", "argparse"})


def _public(thing: Any, skip: Set[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Attributes without a leading underscore, and modules under any name."""
    for name, value in getattr(thing, "__dict__", {}).items():
        if name not in skip and (not name.startswith("_") or isinstance(value, nn.Module)):
            yield name, value


def _uses(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """What a function closes over, its defaults, and the modules and values that it takes from its file."""
    assert isinstance(function, FunctionType)
    yield from [("defaults", function.__defaults__), ("options", function.__kwdefaults__)]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for step in dis.get_instructions(function):
        value = function.__globals__.get(step.argval) if step.opname == "LOAD_GLOBAL" else None
        if isinstance(value, (nn.Module, Tensor, np.ndarray, bool, int, float, str)):
            yield step.argval, value


def _unwrapped(thing: Any) -> Any:
    """The module inside what compiles or distributes it."""
    while isinstance(thing, nn.Module):
        parallel = isinstance(thing, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = dict(thing.named_children()).get("module" if parallel else "_orig_mod")
        if inner is None:
            return thing
        thing = inner
    return thing


def _answers(model: Classifier, x: Tensor, index: Tensor) -> dict[str, list[list[float]] | None]:
    """Sketches of the logits and of a gradient of theirs, which is None where there is none."""
    leaf = x.detach().clone().requires_grad_()
    with PrivateStream(0)(x.device), torch.enable_grad():
        logits = query(model, leaf, seed=0, index=index).float()
        grad = None
        if logits.requires_grad:
            try:
                (grad,) = torch.autograd.grad(
                    (logits @ _waves(logits.shape[1], x.device)).sum(), leaf, allow_unused=True
                )
            except RuntimeError:  # a defence without a backward pass
                grad = None
    return {"answers": _sketch(logits), "gradients": None if grad is None else _sketch(grad)}


def _sketch(values: Tensor) -> list[list[float]]:
    """Size and some projections of each row, six digits of each: enough to tell any two apart."""
    flat = values.detach().flatten(1).double().cpu()
    rows = torch.cat([flat.norm(dim=1, keepdim=True), flat @ _waves(flat.shape[1], flat.device).double()], dim=1)
    return [[float(f"{value:.6g}") for value in row] for row in rows.tolist()]


def _waves(size: int, device: torch.device) -> Tensor:
    """(size, 4) fixed directions without any pattern, float32."""
    place = torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    waves = torch.cos(place * torch.tensor([1.0, 2.3, 3.7, 5.1], dtype=torch.float64) + 0.61 * place.square())
    return waves.to(device, torch.float32)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
