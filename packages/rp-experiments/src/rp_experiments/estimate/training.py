"""What a training step takes: the trainer's own loss and its backward pass, on fake tensors."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rp_models.settings import ComputeSettings
from rp_models.training.checkpointing import checkpoint_blocks
from rp_models.training.trainer import BaseTrainer
from torch import nn

from rp_experiments.estimate.counting import counted, faked, weights

FEW = 4  # images of a step of which only the operations are counted
GHOST = 16  # fewest images whose statistics a batch norm may take: below, its error grows (arXiv:1803.08494, Fig. 1)
_TOO_MANY = 1.2  # times the limit: what a size is expected to need for which nobody counts


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one step takes on one card."""

    flop: float  # of an image
    fixed: float  # bytes of weights, averages, gradients and the optimizer's state
    batch: int  # images of the card
    micro_batch: int  # images that go through the network at a time; 0 if not even the fewest fit
    checkpointing: bool  # whether blocks are computed again in the backward pass
    memory: float  # bytes at the largest moment, with the micro-batch
    whole: float  # the same if the whole batch went through at once, as the settings have it

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
    divisible: bool = True  # whether the loss is a mean over images, which micro-batches leave as it is
    objective: str = ""  # what the loss is, in words that tell losses apart
    checkpointable: bool = True  # whether blocks may be computed again


def step_cost(step: Step, batch: int, *, limit: float, compute: ComputeSettings, processes: int = 1) -> StepCost:
    """Count a step of so many images on one card, in the micro-batch that the settings name.

    Where they name none it is chosen: the largest divisor of the batch with which a step stays below `limit` bytes;
    where none does, the largest one with activation checkpointing. A network with batch norms, to which micro-batches
    make a difference and checkpointing does not, is checkpointed before its batch is divided.
    """
    with faked([*step.trained, *step.frozen]):
        parameters = sum(p.numel() * p.element_size() for m in step.trained for p in m.parameters() if p.requires_grad)
        fixed = weights([*step.trained, *step.frozen]) + parameters * (step.slots + 1 + (processes > 1))
        resting = fixed - parameters  # the gradients are made inside
        short = min(step.attack_steps, 1)

        def memory(images: int) -> float:
            return resting + _run(step, compute, images, short).peak

        if compute.checkpointing:
            checkpoint_blocks(nn.ModuleList(step.trained))
        first = _run(step, compute, batch, short)
        whole, flop = resting + first.peak, first.total / batch
        chosen, needed, again = _chosen(step, compute, batch, whole, limit, resting, memory)
        if again and not compute.checkpointing:
            flop = _run(step, compute, FEW, short).total / FEW
        if step.attack_steps > 1:  # each further step of the attack takes what the second one took
            flop += (step.attack_steps - 1) * (_run(step, compute, FEW, 2).total / FEW - flop)
    gc.collect()
    return StepCost(
        flop=flop, fixed=float(fixed), batch=batch, micro_batch=chosen, checkpointing=again,
        memory=float(needed), whole=float(whole),
    )  # fmt: skip


def _chosen(
    step: Step,
    compute: ComputeSettings,
    batch: int,
    whole: float,
    limit: float,
    resting: float,
    memory: Callable[[int], float],
) -> tuple[int, float, bool]:
    """Micro-batch, its memory, and whether blocks are computed again, which they are from now on."""
    if compute.micro_batch is not None:
        size = min(compute.micro_batch, batch)
        return size, whole if size == batch else memory(size), compute.checkpointing
    sizes, may = _sizes(step, batch), not compute.checkpointing and _checkpointable(step, compute)
    found = _largest([batch] if may and normed(step) else sizes, whole, limit, resting, memory)
    if found[0] or not may:
        return *found, compute.checkpointing
    checkpoint_blocks(nn.ModuleList(step.trained))
    return *_largest(sizes, memory(batch), limit, resting, memory), True


def _largest(
    sizes: Sequence[int], whole: float, limit: float, resting: float, memory: Callable[[int], float]
) -> tuple[int, float]:
    """The largest size that stays below the limit, and what it needs; 0, with the need of the smallest, if none does.

    The first size is the whole batch.
    """
    needed, each = whole, (whole - resting) / sizes[0]
    if whole <= limit:
        return sizes[0], whole
    for size in sizes[1:]:
        if resting + each * size < _TOO_MANY * limit or size == sizes[-1]:
            needed = memory(size)
            if needed <= limit:
                return size, needed
    return 0, needed


def _sizes(step: Step, batch: int) -> list[int]:
    """Possible micro-batches, the largest first: divisors of the batch that leave batch norms enough images."""
    fewest = min(GHOST if normed(step) else 1, batch) if step.divisible else batch
    return [n for n in range(batch, fewest - 1, -1) if batch % n == 0]


def _checkpointable(step: Step, compute: ComputeSettings) -> bool:
    """Whether the engine would compute blocks again."""
    return step.checkpointable and not (compute.compile and normed(step))


def normed(step: Step) -> bool:
    """Whether what is trained has batch norms."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for t in step.trained for m in t.modules())


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
