"""What a defence may offer to an attacker beyond logits, and how attacks ask for it.

Every model is a callable from images to logits. Four small protocols, each optional, let an evaluation go deeper:
`Randomised` (its noise as a function of a seed and image indices), `OffersGradients` (other backward rules for the same
forward pass), `OffersReconstructionLoss` (the loss that a purifier descends), `OffersPurification` (its two parts).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rp_attacks.watch import COPY_STRIDE as COPY_STRIDE
from rp_attacks.watch import count_passes

Classifier = Callable[[Tensor], Tensor]


@runtime_checkable
class Randomised(Protocol):
    """A random defence that can draw its noise from a given seed."""

    def with_noise(self, *, seed: int, index: Tensor) -> Classifier:
        """The same defence, its noise for each row a function of (seed, index of that row) alone.

        An index names an image and a copy of it (see `COPY_STRIDE`): any int64 from 0 on, not only a position.
        """
        ...


@runtime_checkable
class OffersGradients(Protocol):
    """A defence whose backward pass can be replaced, the forward pass staying the true one."""

    gradients: Sequence[str]

    def with_gradient(self, name: str) -> Classifier:
        """The same defence with the backward rule `name`, one of `gradients`."""
        ...


@runtime_checkable
class OffersReconstructionLoss(Protocol):
    """A purifier's own loss, which an adaptive attack keeps low."""

    def reconstruction_loss(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The loss of each image, (b,), differentiable in x."""
        ...


@runtime_checkable
class OffersPurification(Protocol):
    """A classifier behind a purifier: `classifier(purifier(x, seed=, index=))` is the defence's answer."""

    purifier: Callable[..., Tensor]
    classifier: Callable[[Tensor], Tensor]


def query(model: Classifier, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
    """Logits of one pass, with noise from (seed, index) where the model offers that.

    Args:
        model: classifier or defence. Where a module's weights are of another precision and it refuses the images as
            they are, it is asked again in the precision of its weights.
        x: images (b, c, h, w).
        seed: of this pass.
        index: int64 (b,), image indices.

    Returns:
        Logits (b, k) in x's precision, and at least float32.

    Raises:
        TypeError: the model gives something else than a tensor.
    """
    ask, before = model.with_noise(seed=seed, index=index) if isinstance(model, Randomised) else model, _asked.get()
    try:
        answer = ask(x)
    except RuntimeError:
        precision = _weights_precision(model)
        if precision in (None, x.dtype):
            raise
        answer = ask(x.to(precision))
    if not isinstance(answer, Tensor):
        kind = type(answer)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(
            f"the model must give logits as a tensor (images, classes), got {name}; wrap it in a function that picks "
            "them out, e.g. `lambda x: model(x)[0]` or `lambda x: model(x)['logits']`"
        )
    if _asked.get() == before:  # else a model inside has counted its own passes
        count_query(index)
    return answer.to(torch.promote_types(x.dtype, torch.float32))


def count_query(index: Tensor) -> None:
    """Count one forward pass of each row (int64 indices, (b,)), by whatever way it was made."""
    _asked.set(_asked.get() + len(index))
    count_passes(index)


_asked: ContextVar[int] = ContextVar("images that models were asked about", default=0)


@contextmanager
def counted_passes() -> Iterator[Callable[[], int]]:
    """A count, for as long as the context lasts, of the images that `query` asked models about."""
    before = _asked.get()
    yield lambda: _asked.get() - before


def _weights_precision(model: Classifier) -> torch.dtype | None:
    """The precision of a module's floating weights where they are all of one."""
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    precisions = {weight.dtype for weight in weights if weight.is_floating_point()}
    return precisions.pop() if len(precisions) == 1 else None


def with_gradient(model: Classifier, name: str) -> Classifier:
    """The model with one of the backward rules that it offers.

    Args:
        model: classifier or defence.
        name: "exact" (the model as it is), or one of `model.gradients`.

    Raises:
        ValueError: the model does not offer this rule.
    """
    offered = tuple(model.gradients) if isinstance(model, OffersGradients) else ()
    if name in offered:
        assert isinstance(model, OffersGradients)
        return model.with_gradient(name)
    if name == "exact":
        return model
    raise ValueError(
        f"grad={name!r} is not offered by this model (it offers {', '.join(offered) or 'none but exact'}); "
        "a defence offers rules by `gradients` and `with_gradient(name)`"
    )


class LogProbabilities:
    """The logarithms of a model's probabilities, for one that answers with those: logits with the same softmax."""

    def __init__(self, model: Classifier) -> None:
        self.model = model

    @property
    def gradients(self) -> tuple[str, ...]:
        """Backward rules that the model inside offers."""
        return tuple(self.model.gradients) if isinstance(self.model, OffersGradients) else ()

    def with_gradient(self, name: str) -> "LogProbabilities":
        """The same with one of the model's backward rules."""
        return LogProbabilities(with_gradient(self.model, name))

    def __call__(self, x: Tensor) -> Tensor:
        """Log-probabilities (b, k); the smallest probability counts as the smallest normal number."""
        probabilities = self.model(x)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


class FixedNoise:
    """A random defence with noise that the attacker knows: for each image the same in every pass.

    What is left of the robustness once randomness is taken away. Attacks and `evaluate` pass image indices along; a
    plain call takes the rows as images 0, 1, 2, ...
    """

    def __init__(self, model: Randomised, *, seed: int) -> None:
        if not isinstance(model, Randomised):
            raise TypeError(
                "noise can be fixed only in a model that offers `with_noise(seed=, index=)`, "
                f"got {type(model).__name__}"
            )
        self.model = model
        self.seed = seed

    @property
    def gradients(self) -> tuple[str, ...]:
        """Backward rules that the defence inside offers."""
        return tuple(self.model.gradients) if isinstance(self.model, OffersGradients) else ()

    def with_gradient(self, name: str) -> "FixedNoise":
        """The defence with one of its backward rules and the same known noise."""
        inner = with_gradient(self.model, name)  # type: ignore[arg-type]
        assert isinstance(inner, Randomised)
        return FixedNoise(inner, seed=self.seed)

    def with_noise(self, *, seed: int, index: Tensor) -> Classifier:
        """The defence with its fixed noise; the seed asked for is ignored, and so is the copy's number."""
        return self.model.with_noise(seed=self.seed, index=index % COPY_STRIDE)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (b, k) with the fixed noise of images 0, 1, 2, ..."""
        return self.with_noise(seed=0, index=torch.arange(len(x), device=x.device))(x)
