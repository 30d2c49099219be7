"""What a training step takes: the trainer's own loss and its backward pass, on fake tensors."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rp_models.settings import ComputeSettings
from rp_models.training.trainer import BaseTrainer
from torch import nn

from rp_experiments.estimate.counting import counted, faked, weights

FEW = 4  # images of a step whose operations are counted


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one step takes on one card."""

    flop: float  # of an image
    fixed: float  # bytes of weights, averages, gradients and the optimizer's state
    batch: int  # images of the card
    micro_batch: int  # images that go through the network at a time
    memory: float  # bytes at the largest moment, with the micro-batch
    whole: float  # the same if the whole batch went through at once

    @property
    def fits(self) -> bool:
        """Whether the memory was brought below the limit."""
        return self.micro_batch > 0


@dataclass(frozen=True)
class Step:
    """How a step is counted: `loss(images, attack steps)` of so many fake images; the steps of its attack, if any."""

    loss: Callable[[int, int], torch.Tensor]
    trained: Sequence[nn.Module]
    frozen: Sequence[nn.Module] = ()
    attack_steps: int = 0
    slots: int = 2  # numbers that the optimizer keeps for a parameter


def step_cost(step: Step, batch: int, *, limit: float, compute: ComputeSettings, processes: int = 1) -> StepCost:
    """Count a step of so many images on one card, and find the largest micro-batch that stays below `limit` bytes.

    The micro-batch divides the batch; 0 if not even single images fit.
    """
    with faked([*step.trained, *step.frozen]):
        parameters = sum(p.numel() * p.element_size() for m in step.trained for p in m.parameters() if p.requires_grad)
        fixed = weights([*step.trained, *step.frozen]) + parameters * (step.slots + 1 + (processes > 1))
        resting = fixed - parameters  # the gradients are made inside
        short = min(step.attack_steps, 1)
        flop = float(_run(step, compute, FEW, short).total)
        if step.attack_steps > 1:  # each further step of the attack takes what the second one took
            flop += (step.attack_steps - 1) * (_run(step, compute, FEW, 2).total - flop)

        def memory(images: int) -> float:
            return resting + _run(step, compute, images, short).peak

        whole = needed = memory(batch)
        chosen, each = batch, (whole - resting) / batch
        for smaller in _divisors(batch)[1:]:
            if needed <= limit:
                break
            chosen = smaller
            if resting + each * smaller < 1.5 * limit or smaller == 1:  # else far too many
                needed = memory(smaller)
        if needed > limit:
            chosen = 0
    gc.collect()
    return StepCost(
        flop=flop / FEW, fixed=float(fixed), batch=batch, micro_batch=chosen, memory=float(needed), whole=float(whole)
    )


def _run(step: Step, compute: ComputeSettings, images: int, attack_steps: int) -> Any:
    for module in step.trained:
        module.zero_grad(set_to_none=True)

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=compute.precision == "bf16"):
            loss = step.loss(images, attack_steps)
        loss.backward()

    found = counted(work)
    for module in step.trained:
        module.zero_grad(set_to_none=True)
    return found


def _divisors(number: int) -> list[int]:
    return [n for n in range(number, 0, -1) if number % n == 0]


def modules_of(trainer: BaseTrainer) -> list[nn.Module]:
    """All networks of a trainer, its averages among them."""
    return list(trainer.state.modules.values())


def slots_of(optimizer: torch.optim.Optimizer) -> int:
    """How many numbers an optimizer keeps for each parameter."""
    name = type(optimizer).__name__
    if name == "SGD":
        return int(any(group.get("momentum", 0) > 0 for group in optimizer.param_groups))
    return {"Lion": 1}.get(name, 2)


def trainable(modules: Iterable[nn.Module]) -> int:
    """The number of parameters that are trained."""
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
