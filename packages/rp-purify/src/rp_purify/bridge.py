"""ADBM's training objective: from noised adversarial images back to clean ones, over a diffusion bridge.

In EDM's coordinates the network sees y = x + (sigma / sigma_T)^2 delta + sigma n, the whole perturbation at the horizon
T and none of it at 0, and is to recover x.

Source: Li et al. 2025, "ADBM: Adversarial Diffusion Bridge Model for Reliable Adversarial Purification",
arXiv:2408.00315, and its public code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from rp_models import noise
from rp_models.diffusion.precondition import VPPrecond
from rp_models.settings import check_choice
from torch import Tensor, nn

from rp_purify.inner_adversary import ascend, class_loss, evaluating
from rp_purify.purifier import frozen
from rp_purify.reverse import denoise
from rp_purify.settings import Per


class BridgeDraws(NamedTuple):
    """The random numbers of one batch.

    Attributes:
        horizon: (b,), the time T of each image's bridge.
        time: (b,), t in (0, T].
        noise: (b, c, h, w), unit normals n.
        start: (b, c, h, w), uniform in [-1, 1): where the adversary starts, in units of eps.
    """

    horizon: Tensor
    time: Tensor
    noise: Tensor
    start: Tensor


@dataclass(frozen=True, kw_only=True)
class BridgeLoss:
    """The squared error of the predicted noise with an adversary that is made inside the step.

    Attributes:
        eps: of the adversary's box and of its sign steps, in [0, 1] pixel units.
        steps: of the adversary.
        earliest_horizon: lowest T.
        tune_T: highest T.
        earliest: lowest t.
        per: whose own T is drawn, each "image"'s or, as published, the "batch"'s.
    """

    eps: float = 8 / 255
    steps: int = 3
    earliest_horizon: float = 0.1
    tune_T: float = 0.2
    earliest: float = 1e-5
    per: Per = "image"

    def __post_init__(self) -> None:
        check_choice("per", self.per, get_args(Per))
        if self.eps < 0 or self.steps < 0 or not 0 < self.earliest < self.earliest_horizon <= self.tune_T <= 1:
            raise ValueError(f"expected eps, steps >= 0 and 0 < earliest < earliest_horizon <= tune_T <= 1, got {self}")

    def draw(self, shape: Sequence[int], *, seed: int, index: Tensor) -> BridgeDraws:
        """The random numbers of a batch of images of that shape, by (seed, index of each draw)."""
        who = index if self.per == "image" else index[:1].expand_as(index)
        share = noise.uniform((), seed=seed, purpose="bridge T", index=who)
        horizon = self.earliest_horizon + (self.tune_T - self.earliest_horizon) * share
        time = noise.uniform((), seed=seed, purpose="bridge t", index=index)
        return BridgeDraws(
            horizon,
            self.earliest + (horizon - self.earliest) * time,
            noise.normal(shape, seed=seed, purpose="bridge noise", index=index),
            2 * noise.uniform(shape, seed=seed, purpose="bridge start", index=index) - 1,
        )

    def __call__(self, denoiser: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor, draws: BridgeDraws) -> Tensor:
        """The mean of |D - x|^2 / sigma^2 over the pixels of each image (b,); differentiable in the denoiser.

        Args:
            denoiser: D(y; sigma); its training mode holds for the loss, the adversary is made in eval mode.
            classifier: images in [0, 1] to logits, in eval mode; it gets no gradient.
            x: clean images (b, c, h, w) in [-1, 1].
            y: their labels (b,).
        """
        *_, adversarial = self.adversarial(denoiser, classifier, x, y, draws) or (x,)
        sigma = bridge_sigma(draws.time)
        error = self._denoise(denoiser, self.state(x, adversarial, draws), draws) - x
        return (error / sigma.view(-1, 1, 1, 1)).square().mean(dim=(1, 2, 3))

    def adversarial(
        self, denoiser: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor, draws: BridgeDraws
    ) -> list[Tensor]:
        """The adversarial images in [-1, 1] after each step of the adversary."""
        eps = 2 * self.eps

        def objective(adversarial: Tensor, step: int) -> Tensor:
            return class_loss(classifier, self._denoise(denoiser, self.state(x, adversarial, draws), draws), y)

        def update(adversarial: Tensor, gradient: Tensor, step: int) -> Tensor:
            moved = adversarial + eps * gradient.sign()
            return moved.clamp(x - eps, x + eps).clamp(-1, 1)

        with evaluating(denoiser), frozen(denoiser), frozen(classifier):
            return list(ascend(objective, update, x + eps * draws.start, self.steps))

    def state(self, x: Tensor, adversarial: Tensor, draws: BridgeDraws) -> Tensor:
        """What the network sees, in EDM's coordinates."""
        sigma, end = (bridge_sigma(time).view(-1, 1, 1, 1) for time in (draws.time, draws.horizon))
        return x + (sigma / end).square() * (adversarial - x) + sigma * draws.noise

    def _denoise(self, denoiser: nn.Module, state: Tensor, draws: BridgeDraws) -> Tensor:
        """D, the networks of the continuous process being told the time itself, which sigma in float32 blurs near 0."""
        label = 999 * draws.time if isinstance(denoiser, VPPrecond) else None
        return denoise(denoiser, state, bridge_sigma(draws.time), label)


def bridge_sigma(time: Tensor) -> Tensor:
    """The noise level in EDM's coordinates at times of the continuous variance-preserving schedule, exact near 0."""
    return torch.expm1(19.9 / 2 * time.square() + 0.1 * time).sqrt()
