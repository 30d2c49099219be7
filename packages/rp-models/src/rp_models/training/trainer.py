"""What all trainers share: weights, their average, the state on disk and the engine."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from rp_models.data.augmentation import Augmentation, ResizedCrop
from rp_models.data.batches import BatchPlan
from rp_models.data.images import Images
from rp_models.settings import ComputeSettings, EdmSettings, MaeSettings, MaskDitSettings, StandardSettings
from rp_models.training.averaging import MovingAverage
from rp_models.training.distributed import ALONE, Processes, synchronise_batch_norms
from rp_models.training.engine import Engine
from rp_models.training.loop import Metrics, TrainingState
from rp_models.training.minibatches import Minibatches
from rp_models.training.optimizer import set_rate
from rp_models.training.seeding import seeded

Settings = TypeVar("Settings", bound=EdmSettings | MaeSettings | MaskDitSettings | StandardSettings)


class Batches(Protocol):
    """The images of each step, e.g. `Minibatches`."""

    batch_size: int
    plan: BatchPlan

    def part(self, step: int) -> Any:
        """This process's part of a step's batch, a NamedTuple of tensors."""

    def whole(self, step: int) -> Any:
        """The whole batch of a step."""


class BaseTrainer(ABC):
    """One network, the average of its weights, and the step that trains them; a subclass says what it minimises.

    A step is a function of its number: batches, draws and rates need no state. Every subclass trains in mixed precision
    and in several processes, which divide each batch and agree with one process up to rounding. The subclass sets
    `model` before it calls this constructor; `average`, the average of its weights, is the model itself if there is
    none; `modules` and `kept` are what the optimizer trains and what else training changes, by name.
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
        for module in {**averaged, **(kept or {})}.values():
            self.engine.prepare(module)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each image is seen once."""
        return self.batches.plan.batches_per_epoch

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

    def graph(self, step: int) -> Hashable:
        """A value that changes where a step's gradients reach other parameters than before; always None."""
        del step
        return None

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
        self.engine.expect(self.graph(step))
        metrics = self.engine.step(*self.drawn(self.batches.part(step), step))
        self.follow(step)
        return {**metrics, "lr": lr}

    def evidence(self, step: int) -> dict[str, Tensor]:
        """The whole batch of a step, to look at when its loss is not a number."""
        batch = self.drawn(self.batches.whole(step), step)._asdict()
        return {name: value for name, value in batch.items() if value is not None}


class NetworkTrainer(BaseTrainer, Generic[Settings]):
    """Trains a fresh network on one data set; a subclass says how it is built, optimised and averaged.

    `images` lie on the device where the training shall run; `seed` is that of weights, batches, augmentation and noise.
    """

    purpose: ClassVar[str]  # keeps the draws of weights and batches apart from others of the same seed
    clean_gradients: ClassVar[bool] = False

    def __init__(
        self,
        settings: Settings,
        images: Images,
        *,
        seed: int,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.seed = settings, seed
        batches = Minibatches(
            images,
            settings.batch_size,
            seed=seed,
            purpose=self.purpose,
            augmentation=self.changes(),
            processes=processes,
        )
        with seeded(seed, f"{self.purpose} weights"):
            self.model = self.network(images).to(batches.device).train()
        synchronise_batch_norms(self.model, processes, compute)
        super().__init__(
            {"model": self.model},
            batches,
            self.optimizer(),
            average=self.moving_average(),
            compute=compute,
            processes=processes,
            clean_gradients=self.clean_gradients,
        )

    @abstractmethod
    def network(self, images: Images) -> nn.Module:
        """The network with fresh weights."""

    @abstractmethod
    def optimizer(self) -> Optimizer:
        """The optimiser over the model's parameters."""

    def changes(self) -> Augmentation | None:
        """What is done to the training images."""
        return None

    def moving_average(self) -> MovingAverage | None:
        """The average of the model's weights, where a half-life is given."""
        half_life = self.settings.ema_half_life
        return MovingAverage(self.model, half_life=half_life) if half_life else None


def crops_and_flips(settings: MaeSettings | StandardSettings) -> Augmentation:
    """The random crops and mirrored images of a training."""
    crop = ResizedCrop(scale=(settings.crop_scale, 1.0)) if settings.crop_scale < 1 else None
    return Augmentation(resized_crop=crop, crop_padding=settings.crop_padding, flip=settings.flip)
