"""What all trainers share: weights, their average, the state on disk and the engine."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from rp_models.settings import ComputeSettings
from rp_models.training.averaging import MovingAverage
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.engine import Engine
from rp_models.training.loop import Metrics, TrainingState
from rp_models.training.optimizer import set_rate


class Batches(Protocol):
    """The images of each step, e.g. `Minibatches`."""

    batch_size: int

    def part(self, step: int) -> Any:
        """This process's part of a step's batch, a NamedTuple of tensors."""

    def whole(self, step: int) -> Any:
        """The whole batch of a step."""


class BaseTrainer(ABC):
    """One network, the average of its weights, and the step that trains them; a subclass says what it minimises.

    A step is a function of its number: batches, draws and rates need no state. Every subclass trains in mixed
    precision and in several processes, which divide each batch and agree with one process up to rounding.

    Attributes:
        model: the network that is trained, set by the subclass before it calls this constructor.
        average: the average of its weights, which is what one uses; the model itself if there is none.
        state: everything that training changes.
        engine: does the optimiser steps.

    Args:
        modules: what the optimizer trains, by name.
        batches: the images of each step.
        optimizer: over the modules' parameters.
        average: follows the model after each step.
        kept: what else training changes, by name.
        compute: precision and speed.
        processes: that train together.
        clean_gradients: see `Engine`.
    """

    model: nn.Module
    average: nn.Module

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        batches: Batches,
        optimizer: Optimizer,
        *,
        average: MovingAverage | None = None,
        kept: Mapping[str, nn.Module] | None = None,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        clean_gradients: bool = False,
    ) -> None:
        self.batches, self._average = batches, average
        self.average = average.model if average else self.model
        averaged = {"average": average.model} if average else {}
        self.state = TrainingState({**modules, **averaged, **(kept or {})}, optimizer)
        self.engine = Engine(
            dict(modules), self.loss, optimizer, compute=compute, processes=processes, clean_gradients=clean_gradients
        )

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate of a step."""

    @abstractmethod
    def loss(self, *batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """What a step minimises on a batch of `drawn`, a mean over its images, and scalars to log."""

    def drawn(self, batch: Any, step: int) -> NamedTuple:
        """What the loss takes: the images of a step with their random draws."""
        del step
        return batch

    def before_step(self, step: int) -> None:
        """Called before each step; does nothing."""
        del step

    def follow(self, step: int) -> None:
        """Let the average follow the model after a step."""
        if self._average:
            size = self.batches.batch_size
            self._average.follow(self.model, seen=(step + 1) * size, batch_size=size)

    def step(self, step: int) -> Metrics:
        """One optimiser step, number `step` from 0."""
        lr = self.rate(step)
        set_rate(self.state.optimizer, lr)
        self.before_step(step)
        metrics = self.engine.step(*self.drawn(self.batches.part(step), step))
        self.follow(step)
        return {**metrics, "lr": lr}

    def evidence(self, step: int) -> dict[str, Tensor]:
        """The whole batch of a step, to look at when its loss is not a number."""
        batch = self.drawn(self.batches.whole(step), step)._asdict()
        return {name: value for name, value in batch.items() if value is not None}
