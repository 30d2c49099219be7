"""Purification by a reverse diffusion: the loop over rounds and steps that all such purifiers share.

A step is a small frozen object that moves the state; noise comes in as unit normals. The state is x_t of the
variance-preserving process in [-1, 1], or y = x_t / sqrt(abar) = x + sigma n in EDM's coordinates, as the steps of the
round want it; D is the denoised image in either.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from rp_models import noise
from rp_models.values import as_values
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rp_purify.gradient import clip_to_image
from rp_purify.purifier import Purifier, frozen

Draw = Callable[[str], Tensor]
"""draw(purpose): unit normal noise like the images."""


class Step(Protocol):
    """One move of the state."""

    @property
    def random(self) -> bool:
        """Whether it takes a unit normal draw."""
        ...

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: "Shift") -> Tensor:
        """The state after the step; `shift` tells what is added to each denoised image."""
        ...


class Seen(NamedTuple):
    """What guidance sees of one step: y = x + sigma n, the denoised image D, and the variance that the step adds."""

    y: Tensor
    denoised: Tensor
    sigma: float
    variance: Tensor | float = 0.0


Shift = Callable[[Seen], Tensor | float]
"""What guidance adds to the denoised image."""


class Round(NamedTuple):
    """A start, state = signal * images + std * noise, and the steps from there."""

    signal: float
    std: float
    steps: Sequence[Step]


class Place(NamedTuple):
    """Where a step is, for the purposes of its draws."""

    round: int
    step: int


class ReverseDiffusion(Purifier):
    """Noises images and leads them back, in one round or several; a subclass gives the `rounds`.

    The exact gradient recomputes each step in the backward pass, at the memory of one image a step; the noise is made
    anew from (seed, index).
    """

    def __init__(self, model: nn.Module, *, seed: int | None = None, fresh: bool = True, grad: str = "exact") -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        self.model = model

    @property
    def rounds(self) -> list[Round]:
        """Start and steps of each round."""
        raise NotImplementedError

    def shift(self, seen: Seen, place: Place, x: Tensor, draw: Draw) -> Tensor | float:
        """What guidance adds to the denoised image in one step: nothing.

        Args:
            x: the images that are purified, in [-1, 1].
            draw: further noise, by purpose.
        """
        return 0.0

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all rounds."""

        def draw(purpose: str) -> Tensor:
            return noise.normal(x.shape[1:], seed=seed, purpose=purpose, index=index, dtype=x.dtype)

        state = x
        for state in self.trajectory(x, draw):  # noqa: B007 (the last one is wanted)
            pass
        return clip_to_image((state + 1) / 2)

    def trajectory(self, x: Tensor, draw: Draw) -> Iterator[Tensor]:
        """The states: in each round the noised images, then what each step makes of them; from images in [0, 1]."""
        state = images = 2 * x - 1
        for number, (signal, std, steps) in enumerate(self.rounds):
            state = signal * state
            if std > 0:
                state = state + std * draw(f"noise of round {number}")
            yield state
            for state in self.solved(state, number, steps, images, draw):  # noqa: B020 (the next round goes on from there)
                yield state

    def solved(self, state: Tensor, number: int, steps: Sequence[Step], x: Tensor, draw: Draw) -> Iterator[Tensor]:
        """The state after each step of one round."""
        for count, step in enumerate(steps):
            state = self._checkpointed(step, state, Place(number, count), x, draw)
            yield state

    def _checkpointed(self, step: Step, state: Tensor, place: Place, x: Tensor, draw: Draw) -> Tensor:
        """One step, recomputed in the backward pass with the same noise, and the same weights frozen or not."""

        def move(state: Tensor, x: Tensor) -> Tensor:
            unit = draw(f"step {place.step} of round {place.round}") if step.random else None
            return step(self.model, state, unit, lambda seen: self.shift(seen, place, x, draw))

        return recomputed(self, move, state, x)


def recomputed(model: nn.Module, function: Callable[..., Any], *arguments: Tensor) -> Any:
    """`function(*arguments)`, computed again in the backward pass with the weights frozen if they are now.

    The function must be pure: noise that it draws is a function of a seed.
    """
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in arguments):
        return function(*arguments)
    if any(parameter.requires_grad for parameter in model.parameters()):
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)

    def without_weights(*arguments: Tensor) -> Any:
        with frozen(model):
            return function(*arguments)

    return checkpoint(without_weights, *arguments, use_reentrant=False, preserve_rng_state=False)


def denoise(model: nn.Module, y: Tensor, sigma: Tensor | float, label: Tensor | float | None = None) -> Tensor:
    """D(y; sigma) in the precision of y.

    Args:
        sigma: one level, or (b,).
        label: index of the step in a table of 1,000, which networks that were trained on one are told as it is.
    """
    level = as_values(sigma, device=y.device, dtype=y.dtype).expand(len(y))
    if label is not None and getattr(model, "M", None) == 1000:
        result: Tensor = model(y, level, noise_label=label)
    else:
        result = model(y, level)
    return result.to(y.dtype)


@dataclass(frozen=True)
class Ancestral:
    """From noise level sigma to the following one, drawn from the posterior given D; EDM's coordinates."""

    sigma: float
    following: float
    random = True

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: Shift) -> Tensor:
        """The state after the step."""
        assert unit is not None
        denoised = denoise(model, state, self.sigma)
        denoised = denoised + shift(Seen(state, denoised, self.sigma))
        share = (self.following / self.sigma) ** 2
        return denoised + share * (state - denoised) + self.following * (1 - share) ** 0.5 * unit


@dataclass(frozen=True)
class Heun:
    """From noise level sigma to the following one along the probability flow; EDM's coordinates."""

    sigma: float
    following: float
    random = False

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: Shift) -> Tensor:
        """The state after the step."""
        slope = self._slope(model, state, self.sigma, shift)
        ahead = state + (self.following - self.sigma) * slope
        if self.following == 0:
            return ahead
        mean = (slope + self._slope(model, ahead, self.following, shift)) / 2
        return state + (self.following - self.sigma) * mean

    def _slope(self, model: nn.Module, y: Tensor, sigma: float, shift: Shift) -> Tensor:
        denoised = denoise(model, y, sigma)
        return (y - denoised - shift(Seen(y, denoised, sigma))) / sigma


@dataclass(frozen=True)
class ChurnedHeun:
    """A Heun step from a level that is first raised by the share `gamma` with fresh noise; EDM's coordinates."""

    sigma: float
    following: float
    gamma: float

    @property
    def random(self) -> bool:
        """Whether it adds noise."""
        return self.gamma > 0

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: Shift) -> Tensor:
        """The state after the step."""
        raised = self.sigma * (1 + self.gamma)
        if unit is not None:
            state = state + (raised**2 - self.sigma**2) ** 0.5 * unit
        return Heun(raised, self.following)(model, state, None, shift)
