"""A model as a library attack may see it: no way to its parameters' gradients, its noise, or the global generators."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rp_attacks.defence import Classifier, query
from rp_attacks.eot import input_gradient
from rp_attacks.noise import derive_seed
from rp_attacks.norms import repaired
from rp_attacks.watch import count_passes, uncounted


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Restore on leaving what library attacks change: the random states of torch, numpy and Python, and the tracer."""
    tracer = sys.gettrace()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 read, to be put back
    try:
        with torch.random.fork_rng(devices=_accelerators(device)):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        sys.settrace(tracer)


class PrivateStream:
    """Global generators of its own for a model that draws from the global ones: swapped in for each call.

    Those of torch, on the CPU and the device, of numpy and of Python.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states: dict[torch.device, Tensor] = {}
        self._numpy: Any = None
        self._python: Any = None

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        """Inside the context the global generators are this stream's, and they are put back afterwards."""
        devices = [torch.device("cpu"), *_accelerators(device)]
        with isolated(device):
            for one in devices:
                if one not in self._states:
                    self._states[one] = torch.Generator(one).manual_seed(self._seed).get_state()
                _set_state(one, self._states[one])
            if self._numpy is None:
                self._numpy = np.random.RandomState(self._seed % 2**32).get_state()
                self._python = random.Random(self._seed).getstate()
            np.random.set_state(self._numpy)  # noqa: NPY002
            random.setstate(self._python)
            yield
            self._states = {
                one: torch.get_rng_state() if one.type == "cpu" else torch.cuda.get_rng_state(one) for one in devices
            }
            self._numpy, self._python = np.random.get_state(), random.getstate()  # noqa: NPY002


def _accelerators(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


class OwnNoise:
    """The model with a random stream of its own, that a library attack can neither replay nor reset.

    A defence that offers `with_noise` draws from (seed, number of the call); any other gets a `PrivateStream`. Only the
    images are differentiated, and logits are a fresh float32 tensor, which the library may overwrite.
    """

    def __init__(self, model: Classifier, *, seed: int, index: Tensor) -> None:
        self._model, self._seed, self._index = model, seed, index
        self._calls = 0
        self._stream = PrivateStream(derive_seed(seed, "defence"))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (b, k), differentiable in x alone."""
        if torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _ImagesOnly.apply(x, self)
            return logits
        with torch.no_grad():
            return self._logits(x).clone()

    def _logits(self, x: Tensor) -> Tensor:
        self._calls += 1
        rows = self._index[torch.arange(len(x), device=x.device) % len(self._index)]
        self._count(len(x))
        with self._stream(x.device), uncounted():
            return query(self._model, x, seed=derive_seed(self._seed, "call", self._calls), index=rows).float()

    def _count(self, rows: int, *, backward: bool = False) -> None:
        """A library does not say which images it asks about: its passes are shared out among all of the call."""
        count_passes(self._index, backward=backward, each=rows / len(self._index))


class _ImagesOnly(torch.autograd.Function):
    """A call whose backward pass reaches the images and leaves every parameter's gradient alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: OwnNoise) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = model._logits(leaf)
        ctx.leaf, ctx.logits, ctx.model = leaf, logits, model
        return logits.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        grad, _ = repaired(input_gradient(ctx.logits, ctx.leaf, upstream=grad_outputs[0], keep_graph=True))
        ctx.model._count(len(grad), backward=True)
        return grad, None
