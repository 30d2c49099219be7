"""One optimiser step: precision, compilation, several processes, clipping; the same for everything that is trained."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rp_models.precision import autocast, be_deterministic, float32_products, keep_heads
from rp_models.settings import ComputeSettings
from rp_models.training.checkpointing import checkpoint_blocks
from rp_models.training.distributed import ALONE, Processes

_CLEAN = {"nan": 0.0, "posinf": 1e5, "neginf": -1e5}  # what a gradient's odd values become, where that is asked for


class StepLoss(nn.Module):
    """Modules that are trained together, and the loss of one batch as their `forward`.

    `DistributedDataParallel` averages the gradients of whatever a forward pass used, however often it used it: an
    adversarial step calls its network many times, but is one forward pass of this module.
    """

    def __init__(self, modules: dict[str, nn.Module], loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]) -> None:
        super().__init__()
        self.trained = nn.ModuleDict(modules)
        self.loss = loss

    def forward(self, *batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's part of a batch, and the figures to log."""
        loss, figures = self.loss(*batch)
        return loss, {name: value.detach() for name, value in figures.items()}


class Engine:
    """Does optimiser steps on a loss.

    Args:
        modules: what is trained, by name.
        loss: maps this process's part of a batch to (scalar loss, scalar figures to log); the loss is a mean over
            images, so that the mean over processes is that of the global batch.
        clean_gradients: replace NaN and infinite gradient entries, as EDM's published trainer does.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        loss: Callable[..., tuple[Tensor, dict[str, Tensor]]],
        optimizer: Optimizer,
        *,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        clean_gradients: bool = False,
    ) -> None:
        self.compute, self.processes = compute or ComputeSettings(), processes
        self.optimizer, self.clean_gradients = optimizer, clean_gradients
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        if self.compute.deterministic:
            be_deterministic()
        elif not torch.are_deterministic_algorithms_enabled():
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        if self.compute.checkpointing:
            self._checkpoint(modules.values())
        for module in modules.values():
            self.prepare(module)
            if self.compute.compile:
                compile_network(module, cuda_graphs=self.compute.cuda_graphs)
        self._graph: Hashable = None
        self._own_loss = StepLoss(modules, loss)
        self._step_loss: nn.Module = self._own_loss
        if self.compute.micro_batch is None:
            self._step_loss = processes.wrap(self._own_loss)

    def prepare(self, module: nn.Module) -> None:
        """Lay a network out as the trained ones are, in place; for averages of their weights too."""
        if self.compute.precision == "bf16":
            keep_heads(module)
        if self.compute.channels_last:
            module.to(memory_format=torch.channels_last)

    def _checkpoint(self, modules: Iterable[nn.Module]) -> None:
        """Activation checkpointing, where that goes."""
        networks = nn.ModuleList(modules)
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in networks.modules())
        if self.compute.compile and normed:
            raise ValueError(
                "compute.checkpointing and compute.compile do not go together in a network with batch norms; "
                "leave one of them out, or take a smaller compute.micro_batch"
            )
        checkpoint_blocks(networks)

    def step(self, *batch: Any) -> dict[str, float]:
        """One step on this process's part of a batch, the arguments of the loss.

        Returns the figures to log with the loss under "loss", means over all processes' parts; with clipping also the
        gradient's norm before it.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with float32_products(self.compute.precision):
            metrics = self._accumulated(batch)
        if self.clean_gradients:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, **_CLEAN, out=parameter.grad)
        if self.compute.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.compute.clip_norm)
            metrics = {**metrics, "gradient_norm": norm}
        self.optimizer.step()
        if self.compute.bn == "local":
            self.processes.take_buffers(self._own_loss)
        return self.processes.mean(metrics)

    def expect(self, graph: Hashable) -> None:
        """Say which graph the next steps have: any value, another one where other parameters get gradients."""
        if graph != self._graph and self._step_loss is not self._own_loss:
            self._graph, self._step_loss = graph, self._own_loss  # the old hooks go first
            self._step_loss = self.processes.wrap(self._own_loss)

    def _accumulated(self, batch: Sequence[Any]) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches; the means of their losses and figures."""
        parts = _cut(batch, self.compute.micro_batch)
        means: dict[str, Tensor] = {}
        for share, part in parts:
            if self.compute.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the pass before gave is used up
            with self.autocast():
                loss, figures = self._step_loss(*(self._laid_out(values) for values in part))
            (loss if share == 1 else share * loss).backward()
            for name, value in {"loss": loss.detach(), **figures}.items():
                means[name] = means[name] + share * value if name in means else share * value if share < 1 else value
        if self.compute.micro_batch is not None:
            self.processes.average_gradients(self.parameters)
        return means

    def autocast(self) -> AbstractContextManager[object]:
        """Products in bfloat16, if that is the precision; parameters, sums and heads stay in float32."""
        return autocast(self.device, self.compute.precision)

    def _laid_out(self, part: Any) -> Any:
        """Images in the memory format of the network."""
        if self.compute.channels_last and isinstance(part, Tensor) and part.dim() == 4:
            return part.contiguous(memory_format=torch.channels_last)
        return part


def _cut(batch: Sequence[Any], size: int | None) -> list[tuple[float, Sequence[Any]]]:
    """Micro-batches of at most `size` images, each with its share of them; None among the parts stays None.

    Every n-th image makes one, so that the micro-batches of several processes together are those of one.
    """
    count = len(next(part for part in batch if part is not None))
    if size is None or size >= count:
        return [(1.0, batch)]
    number = -(-count // size)
    rows = [slice(first, None, number) for first in range(number)]
    shares = [len(range(first, count, number)) / count for first in range(number)]
    return [(s, [p if p is None else p[r] for p in batch]) for s, r in zip(shares, rows, strict=True)]


def compile_network(
    module: nn.Module, *, cuda_graphs: bool = False, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Compile what a network computes, in place; its state dict and copies of it stay as they were.

    Its `forward_features`, if it has them, are compiled as well: adversarial training calls them directly.
    `cuda_graphs`: replay the kernels of a pass as one launch; `cudagraph_mark_step_begin` must open each step.
    """
    mode = "reduce-overhead" if cuda_graphs else None
    module.compile(backend=backend, mode=mode)
    if hasattr(module, "forward_features"):
        features = cast(Callable[..., Tensor], module.forward_features)
        module.forward_features = torch.compile(features, backend=backend, mode=mode)  # type: ignore[assignment]
