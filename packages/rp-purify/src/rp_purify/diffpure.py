"""DiffPure and its relatives: noise, then the reverse diffusion, or ascent of the model's likelihood.

DiffPure's variance-preserving process is run in the coordinates of a denoiser D(x; sigma): x_edm = x_vp / sqrt(abar)
and sigma = sqrt((1 - abar) / abar), so that any EDM network does.

Source: Nie et al. 2022, arXiv:2205.07460; Karras et al. 2022, arXiv:2206.00364, section 2.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from rp_models import noise
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rp_purify.gradient import clip_to_image
from rp_purify.purifier import Purifier, frozen
from rp_purify.settings import Solver

GRADUAL_CIFAR10 = (30,) * 4 + (50,) * 2 + (125,) * 2
"""Rounds of gradual purification for CIFAR-10, in time steps (Lee and Kim 2023, arXiv:2303.09051)."""
GRADUAL_SVHN = (30,) * 4 + (50,) * 2 + (80,) * 2
GRADUAL_IMAGENET = (30,) * 4 + (50,) * 2 + (200,) * 2


def vp_levels(times: int, steps: int) -> list[float]:
    """The noise levels sigma of DiffPure's schedule, from time step `times` of 1,000 down to 0.

    Args:
        times: t* in thousandths, at least 1: 100 for t* = 0.1.
        steps: number of steps of equal length in time, at most `times`.

    Returns:
        steps + 1 decreasing numbers, the last 0; abar is the product of 1 - beta over the first time steps, with beta
        linear from 1e-4 to 0.02.
    """
    if not 1 <= steps <= times <= 1000:
        raise ValueError(f"expected 1 <= steps <= times <= 1000, got {steps} steps over {times} times")
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    abar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)]).tolist()
    chosen = [round(times * (1 - step / steps)) for step in range(steps + 1)]
    return [math.sqrt((1 - abar[t]) / abar[t]) for t in chosen]


class DiffPure(Purifier):
    """Noises images to a time t* and runs the reverse diffusion from there, in one round or several.

    The stochastic reverse process takes ancestral (DDPM) steps, which agree with Euler-Maruyama to first order in the
    step; the deterministic one Heun steps. The exact gradient recomputes each step, at the memory of one image a step.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        times: t* in thousandths: 100 (CIFAR-10, maximum norm), 75 (L2), 150 (ImageNet); several for several rounds,
            e.g. `GRADUAL_CIFAR10`.
        steps: denoising steps of a round; None for one each thousandth, as in the paper.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        times: int | Sequence[int] = 100,
        steps: int | None = None,
        solver: Solver = "sde",
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        if solver not in ("sde", "ode"):
            raise ValueError(f"solver must be 'sde' or 'ode', got {solver!r}")
        if isinstance(times, float):
            raise ValueError(f"times counts thousandths, 100 for t* = 0.1, got {times}")
        self.times = (times,) if isinstance(times, int) else tuple(times)
        self.model, self.steps, self.solver = denoiser, steps, solver
        _ = self.rounds  # complains about times and steps out of range

    @property
    def rounds(self) -> list[list[float]]:
        """The noise levels of each round."""
        return [vp_levels(time, time if self.steps is None else min(self.steps, time)) for time in self.times]

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all rounds."""
        x = 2 * x - 1
        for number, levels in enumerate(self.rounds):
            x = x + levels[0] * self._normal(x, seed, index, f"noise of round {number}")
            for step, (sigma, following) in enumerate(itertools.pairwise(levels)):
                unit = self._normal(x, seed, index, f"step {step} of round {number}") if self.solver == "sde" else None
                x = self._checkpointed(x, sigma, following, unit)
        return clip_to_image((x + 1) / 2)

    def _checkpointed(self, x: Tensor, sigma: float, following: float, unit: Tensor | None) -> Tensor:
        """One step, recomputed in the backward pass with the same noise and the same weights frozen or not."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self._step(x, sigma, following, unit, False)
        trains = any(parameter.requires_grad for parameter in self.model.parameters())
        result: Tensor = checkpoint(
            self._step, x, sigma, following, unit, not trains, use_reentrant=False, preserve_rng_state=False
        )
        return result

    def _step(self, x: Tensor, sigma: float, following: float, unit: Tensor | None, freeze: bool) -> Tensor:
        """From noise level sigma to the following one."""
        if freeze:
            with frozen(self.model):
                return self._step(x, sigma, following, unit, False)
        denoised = self._denoise(x, sigma)
        if unit is not None:  # the posterior of x at the lower level, given x and the clean image
            share = (following / sigma) ** 2
            return denoised + share * (x - denoised) + following * math.sqrt(1 - share) * unit
        slope = (x - denoised) / sigma
        ahead = x + (following - sigma) * slope
        if following == 0:
            return ahead
        return x + (following - sigma) * (slope + (ahead - self._denoise(ahead, following)) / following) / 2

    def _denoise(self, x: Tensor, sigma: float) -> Tensor:
        """D(x; sigma) in the images' precision."""
        return self.model(x, torch.full((len(x),), sigma, device=x.device, dtype=x.dtype)).to(x.dtype)

    def _normal(self, x: Tensor, seed: int, index: Tensor, purpose: str) -> Tensor:
        return noise.normal(x.shape[1:], seed=seed, purpose=purpose, index=index, dtype=x.dtype)


class LikelihoodMaximisation(Purifier):
    """Moves images up a diffusion model's likelihood bound: Adam on E |D(x + sigma n; sigma) - x|^2.

    The nearest relative of MaskDiT-Pure: the same kind of loss without masks, signs and ball. Only the backward rule
    "identity" is offered. Source: Zhang et al. 2023, arXiv:2307.04333.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        sigma: lowest and highest noise level; each image's is drawn uniformly in each step.
        lr: of Adam, in the units of [-1, 1].
    """

    gradients = ("identity",)

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        steps: int = 5,
        sigma: tuple[float, float] = (0.4, 0.6),
        lr: float = 0.1,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "identity",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        if not 0 < sigma[0] <= sigma[1] or steps < 0 or lr <= 0:
            raise ValueError(f"expected 0 < sigma_low <= sigma_high, steps >= 0, lr > 0, got {sigma}, {steps}, {lr}")
        self.model, self.steps, self.sigma, self.lr = denoiser, steps, sigma, lr

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all steps, without gradients."""
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model):
            image = (2 * x.detach() - 1).clone().requires_grad_()
            adam = torch.optim.Adam([image], lr=self.lr)
            for step in range(self.steps):
                (image.grad,) = torch.autograd.grad(self._loss(image, seed, index, step).sum(), image)
                adam.step()
            return clip_to_image((image.detach() + 1) / 2)

    def _loss(self, x: Tensor, seed: int, index: Tensor, step: int) -> Tensor:
        """The denoising loss of each image (b,); Adam is blind to its scale."""
        low, high = self.sigma
        share = noise.uniform((), seed=seed, purpose=f"level {step}", index=index, dtype=x.dtype)
        sigma = low + (high - low) * share
        unit = noise.normal(x.shape[1:], seed=seed, purpose=f"noise {step}", index=index, dtype=x.dtype)
        return (self.model(x + sigma.view(-1, 1, 1, 1) * unit, sigma) - x).square().mean(dim=(1, 2, 3))
