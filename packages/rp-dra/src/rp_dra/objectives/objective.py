"""The interface of training objectives, and the simplest one: cross-entropy on the images as they are."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rp_models import noise as randomness
from rp_models.settings import ComputeSettings
from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra.objectives.passes import accuracy, check_batch, classify

Noise = Literal["uniform", "normal"]


class Outcome(NamedTuple):
    """The outcome of an objective on one batch.

    Attributes:
        features: pooled penultimate features (b, d) of the images that the classifier is made robust on, with graph; of
            a classifier with a `Tap` (b, 1 + n, d), those at the positions behind the pooled ones, see `classify`.
        features_nat: the same of the natural images; None if no pass with a graph saw them.
    """

    loss: Tensor  # scalar, with graph, at least float32
    features: Tensor
    x_adv: Tensor  # those images
    metrics: dict[str, Tensor]  # scalar tensors to log, without graph
    features_nat: Tensor | None = None


class Objective(ABC):
    """A training objective: a classifier, images and labels in, an `Outcome` out.

    A trainer uses it like this; objectives without state inherit hooks that do nothing::

        saved |= objective.modules(model)       # once; part of the training state
        for step in range(done, epochs * steps_per_epoch):
            objective.begin_step(model, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
            outcome = objective(model, x, y, start_noise=draws)      # draws of the kind that `objective.noise` names
            outcome.loss.backward()
            objective.before_update(model)
            optimizer.step()
            objective.after_update(model)

    Whatever an objective remembers from step to step stands in its modules; everything else is a function of the
    step, so that a resumed training goes on bit for bit. `model` is the classifier itself, not a wrapper around it
    (`classify` calls its `forward_features` and its head), in train mode; objectives leave its modes and its
    parameters' gradients as they found them. They never wait for the device. `modules` comes before anything is
    restored, and before `torch.compile` touches the model: it may copy it.
    """

    __slots__ = ()

    @property
    def noise(self) -> Noise:
        """The draws that `start_noise` holds: uniform in [0, 1), or standard normal."""
        return "uniform"

    def start_noise(self, x: Tensor, *, seed: int, draw: Tensor) -> Tensor:
        """The draws of the kind `noise` for images x (b, c, h, w) whose numbers are draw (b,)."""
        drawn = randomness.uniform if self.noise == "uniform" else randomness.normal
        return drawn(x.shape[1:], seed=seed, purpose="attack start", index=draw)

    @property
    def robust(self) -> bool:
        """Whether it trains against an attack, so that the best model is the most robust one."""
        return True

    @property
    def additive(self) -> bool:
        """Whether the loss is a mean over images, so that micro-batches add up to it."""
        return True

    def check_micro_batches(self, compute: ComputeSettings | None) -> None:
        """Refuse micro-batches that would change the loss."""
        if compute is not None and compute.micro_batch is not None and not self.additive:
            raise ValueError(
                "this objective is no mean over images (version 2 of IKL divides by a sum over the batch, AWP perturbs "
                "weights once a step), so that micro-batches would change it; leave out compute.micro_batch, or set "
                "compute.checkpointing"
            )

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """What it remembers, made for this classifier and on its device, by the name to save it under."""
        del model
        return {}

    def begin_step(self, model: nn.Module, *, step: int, steps_per_epoch: int, epochs: int) -> None:
        """To be called before each step."""
        del model, step, steps_per_epoch, epochs

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Outcome:
        """The outcome on one batch: the attack, then the loss on what it found.

        Args:
            x: images (b, c, h, w) in [0, 1]; left as they are.
            y: labels (b,), or probabilities (b, k) where the objective can use them.
            start_noise: draws like x, of the kind `noise`; where the attack starts.
        """
        check_batch(x, y, start_noise)
        return self.minimise(model, x, y, self.attack(model, x, y, start_noise=start_noise))

    @abstractmethod
    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Tensor:
        """The images (b, c, h, w) that the loss is raised by, without graph; arguments as of the call."""

    @abstractmethod
    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """The outcome on images and what the attack made of them.

        Args:
            trial: nothing is remembered of this pass: another one of the same batch counts.
        """

    def before_update(self, model: nn.Module) -> None:
        """To be called before the optimiser's step, when the gradients are there."""
        del model

    def after_update(self, model: nn.Module) -> None:
        """To be called after the optimiser's step."""
        del model


@dataclass(eq=False)
class Wrapper(Objective):
    """An objective around another one: what it does not change is the base's."""

    base: Objective

    @property
    def noise(self) -> Noise:
        """The base's."""
        return self.base.noise

    @property
    def robust(self) -> bool:
        """The base's."""
        return self.base.robust

    @property
    def additive(self) -> bool:
        """The base's."""
        return self.base.additive

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The base's."""
        return self.base.modules(model)

    def begin_step(self, model: nn.Module, *, step: int, steps_per_epoch: int, epochs: int) -> None:
        """What the base does."""
        self.base.begin_step(model, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Tensor:
        """The base's."""
        return self.base.attack(model, x, y, start_noise=start_noise)

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """The base's."""
        return self.base.minimise(model, x, y, x_adv, trial=trial)

    def before_update(self, model: nn.Module) -> None:
        """What the base does."""
        self.base.before_update(model)

    def after_update(self, model: nn.Module) -> None:
        """What the base does."""
        self.base.after_update(model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standard(Objective):
    """Cross-entropy on the images as they are."""

    label_smoothing: float = 0.0

    @property
    def robust(self) -> bool:
        """No attack takes part."""
        return False

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Tensor:
        """The images as they are."""
        del model, y, start_noise
        return x

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """See `Objective`."""
        del x_adv, trial
        features, logits = classify(model, x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        return Outcome(loss, features, x, {"accuracy": accuracy(logits, y)}, features)
