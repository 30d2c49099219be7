"""Activation checkpointing: a block keeps its input alone, and is computed again in the backward pass.

Source: Chen et al. 2016, arXiv:1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_Norm = nn.modules.batchnorm._BatchNorm


def checkpoint_blocks(network: nn.Module) -> list[str]:
    """Let a network's blocks be computed again in backward passes, in place; gives their names.

    Blocks are the innermost items of lists and sequences that have modules of their own: residual and transformer
    blocks. Results are the same to the bit, batch norms' statistics too, which move in the first computation alone. A
    pass through the network costs a third more. Raises ValueError if the network has no blocks.
    """
    found = {name: block for name, block in _items(network) if not any(_items(block))}
    if not found:
        raise ValueError(
            "the network has no blocks whose activations could be computed again; "
            "leave out compute.checkpointing and take a smaller compute.micro_batch"
        )
    for block in found.values():
        if not hasattr(block, "computed_again"):
            block.__class__ = _checkpointed(type(block))  # type: ignore[arg-type]
    return list(found)


def _items(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The items of containers that hold weights and modules of their own, by name."""
    for name, container in network.named_modules():
        if isinstance(container, _CONTAINERS):
            for key, item in container.named_children():
                held = any(True for _ in item.parameters()) and any(True for _ in item.children())
                if held and not isinstance(item, nn.ModuleList | nn.ModuleDict):
                    yield f"{name}.{key}".lstrip("."), item


@cache
def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a block's class whose `forward` is checkpointed."""

    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        def compute(*args: Any, **options: Any) -> Any:
            return kind.forward(self, *args, **options)

        if not torch.is_grad_enabled():
            return compute(*args, **options)
        norms = [module for module in self.modules() if isinstance(module, _Norm)]
        # e.g. one that replaces fused attention; a compiled network is traced inside of them
        modes = [] if torch.compiler.is_compiling() else list(_get_current_function_mode_stack())
        again: dict[str, Any] = (
            {"context_fn": lambda: (nullcontext(), _as_then(norms, modes))} if norms or modes else {}
        )
        return checkpoint(compute, *args, use_reentrant=False, **again, **options)

    return type(f"{kind.__name__}_checkpointed", (kind,), {"forward": forward, "computed_again": True})


def _as_then(norms: list[_Norm], modes: list[TorchFunctionMode]) -> AbstractContextManager[None]:
    """A block with the function modes, in which batch norms train or not as now and leave their statistics alone."""
    trained = [norm.training for norm in norms]

    @contextmanager
    def again() -> Iterator[None]:
        before = [(norm.training, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm, training in zip(norms, trained, strict=True):
            # at momentum 0 the statistics stay, and the pass saves as many tensors as the first one
            norm.training, norm.momentum, norm.num_batches_tracked = training, 0.0, None
        try:
            with ExitStack() as stack:
                for mode in modes:
                    stack.enter_context(mode)
                yield
        finally:
            for norm, (training, momentum, tracked) in zip(norms, before, strict=True):
                norm.training, norm.momentum, norm.num_batches_tracked = training, momentum, tracked

    return _Repeated(again)


class _Repeated(AbstractContextManager[None]):
    """A block that may be entered again: each differentiation of a gradient computes once more what it needs."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self.make, self.entered = make, list[AbstractContextManager[None]]()

    def __enter__(self) -> None:
        self.entered.append(self.make())
        self.entered[-1].__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self.entered.pop().__exit__(*error)
