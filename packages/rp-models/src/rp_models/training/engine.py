"""One optimiser step: precision, compilation, several processes, clipping; the same for everything that is trained."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rp_models.settings import ComputeSettings
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
        for module in modules.values():
            if self.compute.channels_last:
                module.to(memory_format=torch.channels_last)
            if self.compute.compile:
                compile_network(module, cuda_graphs=self.compute.cuda_graphs)
        self._step_loss = processes.wrap(StepLoss(modules, loss))

    def step(self, *batch: Any) -> dict[str, float]:
        """One step on this process's part of a batch, the arguments of the loss.

        Returns the figures to log with the loss under "loss", means over all processes' parts; with clipping also the
        gradient's norm before it.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if self.compute.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the step before gave is used up
        with self.autocast():
            loss, metrics = self._step_loss(*(self._laid_out(part) for part in batch))
        loss.backward()
        if self.clean_gradients:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, **_CLEAN, out=parameter.grad)
        if self.compute.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.compute.clip_norm)
            metrics = {**metrics, "gradient_norm": norm}
        self.optimizer.step()
        return self.processes.mean({"loss": loss, **metrics})

    def autocast(self) -> torch.autocast:
        """Matrix products and convolutions in the chosen precision; parameters and sums stay in float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.compute.precision == "bf16")

    def _laid_out(self, part: Any) -> Any:
        """Images in the memory format of the network."""
        if self.compute.channels_last and isinstance(part, Tensor) and part.dim() == 4:
            return part.contiguous(memory_format=torch.channels_last)
        return part


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
