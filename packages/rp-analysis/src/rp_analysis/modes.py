"""Eval mode for the time of an analysis."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def eval_mode(model: Callable[..., Any]) -> Iterator[None]:
    """Puts a module in eval mode inside the block and restores every submodule's own mode; other callables stay."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
