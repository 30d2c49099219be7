"""The straight flow from noise (t = 0) to data (t = 1): interpolation, training loss, Euler sampler, class guidance.

x_t = t data + (1 - t) noise, velocity u = data - noise, data estimate x_t + (1 - t) v. Axes: b batch, c channels, h w.

Source: Yao et al. 2025, arXiv:2501.01423; Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from rp_models.networks.adaln import flow_time
from rp_models.networks.lightningdit import LightningDiT


class Velocity(Protocol):
    """A velocity field: latents (b, c, h, w) and one time for all of them to velocities (b, c, h, w)."""

    def __call__(self, x: Tensor, t: float, /) -> Tensor:
        """The velocity at x and t."""


class FlowLoss(NamedTuple):
    """The two terms of the loss, (b,) each; the training loss is their sum.

    Attributes:
        squared: mean squared error of the velocity.
        cosine: 1 - cosine of predicted and true velocity over the channels, averaged over positions.
    """

    squared: Tensor
    cosine: Tensor


def interpolate(data: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """The point x_t = t data + (1 - t) noise of the flow, for one time in [0, 1] or one per image (b,)."""
    t = flow_time(t, data).to(data.dtype).view(-1, 1, 1, 1)
    return t * data + (1 - t) * noise


def logit_normal_time(normal: Tensor) -> Tensor:
    """Training times sigmoid(normal) from standard normal draws, in their shape."""
    return normal.sigmoid()


def flow_loss(model: LightningDiT, data: Tensor, y: Tensor | None = None, *, t: Tensor, noise: Tensor) -> FlowLoss:
    """The velocity loss (b,) on normalised latents, from draws made outside: times (b,) and standard normal noise.

    Dropped labels are replaced already (`adaln.drop_labels`); None for no class.
    """
    velocity = model(interpolate(data, noise, t), t, y)
    target = data - noise
    squared = ((velocity - target) ** 2).flatten(1).mean(dim=1)
    cosine = 1 - F.cosine_similarity(velocity, target, dim=1).flatten(1).mean(dim=1)
    return FlowLoss(squared, cosine)


def time_grid(num_steps: int, shift: float = 0.3) -> Tensor:
    """The sampler's times (num_steps,) in float32 from 0 to 1: t' = s t / (1 + (s - 1) t) of an even grid.

    Args:
        num_steps: number of points, hence one more than steps; at least 2.
        shift: s, positive; below 1 the steps near the noise are shorter. 1 for an even grid.
    """
    if num_steps < 2 or shift <= 0:
        raise ValueError(f"expected at least 2 points and a positive shift, got {num_steps} and {shift}")
    t = torch.linspace(0, 1, num_steps, device="cpu")
    return shift * t / (1 + (shift - 1) * t)


def sample_euler(
    velocity: Velocity,
    noise: Tensor,
    *,
    num_steps: int = 250,
    shift: float = 0.3,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Latents from noise by Euler steps over `time_grid`: num_steps - 1 evaluations, as in the released sampler.

    Args:
        velocity: the field, e.g. `Guidance(model, y, scale=6.7, start=0.125)`.
        noise: standard normal draws (b, c, h, w), the point at t = 0.
        num_steps: number of grid points.
        shift: see `time_grid`.
        callback: called after each step with its number and the latents.

    Returns:
        Normalised latents (b, c, h, w), the point at t = 1.
    """
    x = noise
    for step, (t, t_next) in enumerate(itertools.pairwise(time_grid(num_steps, shift).tolist())):
        x = x + (t_next - t) * velocity(x, t)
        if callback is not None:
            callback(step, x)
    return x


@dataclass(frozen=True)
class Guidance:
    """A class-conditional velocity with classifier-free guidance: v = u + scale (c - u) in the guided channels.

    Attributes:
        model: the velocity's network.
        y: class indices (b,).
        scale: 1 for no guidance; released settings are 6.7 (800 epochs) and 10.0 (64 epochs).
        start: guidance begins at this time; before it the class-conditional velocity is used (0.125 and 0.10).
        channels: guide the first so many channels, 3 as in the released sampler; None for all.

    Source: Ho and Salimans 2022, arXiv:2207.12598; interval of Kynkäänniemi et al. 2024, arXiv:2404.07724.
    """

    model: LightningDiT
    y: Tensor
    scale: float
    start: float = 0.0
    channels: int | None = 3

    def __post_init__(self) -> None:
        if self.model.class_dropout_prob == 0:
            raise ValueError("guidance needs a model with a null class (class_dropout_prob above 0)")

    def __call__(self, x: Tensor, t: float, /) -> Tensor:
        """The guided velocity (b, c, h, w) of latents (b, c, h, w) at the time t."""
        if t < self.start:
            return self.model(x, t, self.y)
        null = torch.full_like(self.y, self.model.num_classes)
        conditional, unconditional = self.model(torch.cat([x, x]), t, torch.cat([self.y, null])).chunk(2)
        guided = unconditional + self.scale * (conditional - unconditional)
        if self.channels is None:
            return guided
        return torch.cat([guided[:, : self.channels], conditional[:, self.channels :]], dim=1)
