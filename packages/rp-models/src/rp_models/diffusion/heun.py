"""EDM's stochastic sampler with Heun steps (Algorithm 2 of Karras et al. 2022, arXiv:2206.00364)."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from rp_models.values import as_values


def noise_levels(num_steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """The noise levels of the steps, from `sigma_max` to `sigma_min` and a last 0 (Eq. 5).

    Args:
        num_steps: N, at least 2.
        sigma_min: last level before 0, positive.
        sigma_max: first level.
        rho: how strongly small levels are preferred.

    Returns:
        N + 1 numbers, decreasing.

    Raises:
        ValueError: for fewer than two steps, or levels that do not decrease from a positive one.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, got {num_steps}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"expected 0 < sigma_min < sigma_max < inf, got {sigma_min} and {sigma_max}")
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(start + i / (num_steps - 1) * (end - start)) ** rho for i in range(num_steps)] + [0.0]


def sample_heun(
    denoiser: Callable[..., Tensor],
    latents: Tensor,
    *,
    class_labels: Tensor | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Images from noise by 2 N - 1 calls of a denoiser, deterministic unless `S_churn` is positive.

    The state is float64 (float32 on devices that have no float64), the denoiser computes in its own precision.
    Gradients flow through all steps if they are enabled; use `torch.no_grad()` otherwise.

    Args:
        denoiser: `denoiser(x, sigma, class_labels)`; its `sigma_min` and `sigma_max`, if any, limit the levels.
        latents: unit normal noise (b, c, h, w).
        class_labels: as the denoiser takes them.
        num_steps: N, at least 2.
        sigma_min: lowest noise level.
        sigma_max: highest noise level.
        rho: how strongly small levels are preferred.
        S_churn: amount of noise added over all steps; 0 for the deterministic sampler.
        S_min: lowest level at which noise is added.
        S_max: highest level at which noise is added.
        S_noise: factor on the added noise.
        noise: unit normal noise (b, c, h, w) of a step, by its number; needed if `S_churn` is positive.
        callback: called after each step with its number and the state.

    Returns:
        Tensor (b, c, h, w), data range of the denoiser, in the state's precision.

    Raises:
        ValueError: for `S_churn` without `noise`, or noise levels that make no sequence.
    """
    if S_churn > 0 and noise is None:
        raise ValueError("S_churn > 0 adds noise; pass noise, a function from a step's number to unit normal noise")
    levels = _levels_within(denoiser, num_steps, sigma_min, sigma_max, rho)
    x = latents.to(torch.float32 if latents.device.type == "mps" else torch.float64) * levels[0]
    for step, (t, t_next) in enumerate(itertools.pairwise(levels)):
        gamma = min(S_churn / num_steps, math.sqrt(2) - 1) if S_min <= t <= S_max else 0.0
        t_hat = t
        if gamma > 0 and noise is not None:
            t_hat = t * (1 + gamma)
            x = x + math.sqrt(t_hat**2 - t**2) * S_noise * noise(step).to(x)
        x = _heun_step(denoiser, x, t_hat, t_next, class_labels)
        if callback is not None:
            callback(step, x)
    return x


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes of the same shape, rounded as the reference does: floor(127.5 x + 128)."""
    return (127.5 * x + 128).clamp(0, 255).to(torch.uint8)


def _levels_within(
    denoiser: Callable[..., Tensor], num_steps: int, sigma_min: float, sigma_max: float, rho: float
) -> list[float]:
    """Noise levels that the denoiser was made for."""
    return noise_levels(
        num_steps,
        sigma_min=max(sigma_min, float(getattr(denoiser, "sigma_min", 0.0))),
        sigma_max=min(sigma_max, float(getattr(denoiser, "sigma_max", math.inf))),
        rho=rho,
    )


def _heun_step(
    denoiser: Callable[..., Tensor], x: Tensor, t: float, t_next: float, class_labels: Tensor | None
) -> Tensor:
    """From noise level t to t_next; the step to 0 is Euler's."""
    d = _slope(denoiser, x, t, class_labels)
    x_next = x + (t_next - t) * d
    if t_next > 0:  # Heun's correction
        x_next = x + (t_next - t) * (d + _slope(denoiser, x_next, t_next, class_labels)) / 2
    return x_next


def _slope(denoiser: Callable[..., Tensor], x: Tensor, t: float, class_labels: Tensor | None) -> Tensor:
    """dx/dt of the probability flow at noise level t, in the state's precision."""
    sigma = as_values(t, device=x.device, dtype=x.dtype)
    return (x - denoiser(x, sigma, class_labels).to(x.dtype)) / t
