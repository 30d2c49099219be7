"""ADDT's training objective: denoising where a part of the noise is chosen by an adversary and still looks Gaussian.

Source: Liu et al. 2025, "Adversarial Denoising Diffusion Training" (Towards Understanding the Robustness of
Diffusion-Based Purification), arXiv:2404.14309, and its public code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from rp_models import noise
from rp_models.diffusion.edm_loss import DenoisingLoss, EDMLoss
from rp_models.settings import at_least, check_choice
from torch import Tensor, nn

from rp_purify.inner_adversary import ascend, class_loss
from rp_purify.purifier import frozen

Variant = Literal["ranks", "linf"]


class ADDTDraws(NamedTuple):
    """The random numbers of one batch, s being the adversary's steps.

    Attributes:
        sigma: (b,), noise levels.
        delta: (b, c, h, w), unit normals that the adversary starts from.
        noise: (s + 1, b, c, h, w), unit normals of each step and of the loss.
        normals: (s, b, c, h, w), unit normals that each step puts in a new order.
    """

    sigma: Tensor
    delta: Tensor
    noise: Tensor
    normals: Tensor


class ADDTTerms(NamedTuple):
    """The loss of each pixel (b, c, h, w), and the leak: of value 0, its gradient is what the adversary leaves behind.

    The trainer's loss is the reduced first one plus the second as it is.
    """

    loss: Tensor
    leaked: Tensor


@dataclass(frozen=True, kw_only=True)
class ADDTLoss:
    """The loss of an EDM or VP network under rank-based Gaussian-mapped adversarial noise.

    Attributes:
        base: levels and weights: `EDMLoss()`, whose objective is a sum over pixels and a mean over images, or
            `VPLoss(epsilon_t=1e-3)`, a mean over all.
        steps: of the adversary.
        size: the perturbation's part in the state where it is not capped: ratio = size / sigma.
        largest: cap on the ratio.
        variant: how the adversary moves: "ranks", by the order of the gradients' sum, so that its noise looks Gaussian;
            or "linf", by sign steps of the images themselves, the ablation of the public code.
        eps: of the box of "linf", in [0, 1] pixel units.
        step_size: of the steps of "linf", in [0, 1] pixel units.
        leak: add the weights' gradients of the adversary's own losses, as the public EDM trainer does by mistake: the
            network is then also trained to lower the classifier's loss.
    """

    base: DenoisingLoss = field(default_factory=EDMLoss)
    steps: int = 5
    size: float = 0.03
    largest: float = 0.3
    variant: Variant = "ranks"
    eps: float = 8 / 255
    step_size: float = 4 / 255
    leak: bool = False

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, get_args(Variant))
        at_least(self, steps=0)

    def draw(self, shape: Sequence[int], *, seed: int, index: Tensor) -> ADDTDraws:
        """The random numbers of a batch of images of that shape, by (seed, index of each draw)."""

        def normals(purpose: str) -> Tensor:
            return noise.normal(shape, seed=seed, purpose=purpose, index=index)

        return ADDTDraws(
            self.base.sigma(self.base.draw((), seed=seed, index=index)[0]),
            normals("addt delta"),
            torch.stack([normals(f"addt noise {step}") for step in range(self.steps + 1)]),
            torch.stack([normals(f"addt normals {step}") for step in range(self.steps)]),
        )

    def __call__(self, denoiser: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor, draws: ADDTDraws) -> ADDTTerms:
        """The loss, differentiable in the denoiser.

        Args:
            classifier: images in [0, 1] to logits, in eval mode; it gets no gradient.
            x: clean images (b, c, h, w) in [-1, 1].
            y: their labels (b,).
        """
        deltas = [self._start(draws), *(delta for _, delta in self.adversary(denoiser, classifier, x, y, draws))]
        leaked = self._leaked(denoiser, classifier, x, y, draws, deltas[:-1]) if self.leak else x.new_zeros(())
        denoised = denoiser(self.state(x, deltas[-1], draws, -1), draws.sigma)
        return ADDTTerms(self.base.weight(draws.sigma.view(-1, 1, 1, 1)) * (denoised - x).square(), leaked)

    def adversary(
        self, denoiser: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor, draws: ADDTDraws
    ) -> list[tuple[Tensor, Tensor]]:
        """After each step, the sum of the gradients so far and the perturbation that has its order."""
        total = torch.zeros_like(x)
        sums = []

        def objective(delta: Tensor, step: int) -> Tensor:
            return class_loss(classifier, denoiser(self.state(x, delta, draws, step), draws.sigma), y)

        def update(delta: Tensor, gradient: Tensor, step: int) -> Tensor:
            nonlocal total
            total = total + gradient
            sums.append(total)
            if self.variant == "linf":
                moved = (delta + 2 * self.step_size * gradient.sign()).clamp(-2 * self.eps, 2 * self.eps)
                return moved.clamp(-1 - x, 1 - x)
            return rank_gaussian(total, draws.normals[step])

        with frozen(denoiser), frozen(classifier):
            deltas = list(ascend(objective, update, self._start(draws), self.steps))
        return list(zip(sums, deltas, strict=True))

    def ratio(self, sigma: Tensor) -> Tensor:
        """The perturbation's share r of the noise at each level; of "linf" what it is multiplied with in the noise."""
        if self.variant == "linf":
            return (1 / sigma).clamp(0, 10)
        return (self.size / sigma).clamp(0, self.largest)

    def state(self, x: Tensor, delta: Tensor, draws: ADDTDraws, step: int) -> Tensor:
        """What the network sees, x + sigma (sqrt(1 - r^2) n + r delta), or x + sigma (n + r delta) of "linf"."""
        sigma, ratio = draws.sigma.view(-1, 1, 1, 1), self.ratio(draws.sigma).view(-1, 1, 1, 1)
        kept = (1 - ratio.square()).sqrt() if self.variant == "ranks" else 1.0
        return x + sigma * (kept * draws.noise[step] + ratio * delta)

    def _start(self, draws: ADDTDraws) -> Tensor:
        """Where the adversary starts."""
        return draws.delta if self.variant == "ranks" else torch.zeros_like(draws.delta)

    def _leaked(
        self,
        denoiser: nn.Module,
        classifier: nn.Module,
        x: Tensor,
        y: Tensor,
        draws: ADDTDraws,
        deltas: Sequence[Tensor],
    ) -> Tensor:
        """The sum of the losses at the adversary's points, less its value."""
        with frozen(classifier):
            losses = [
                class_loss(classifier, denoiser(self.state(x, delta, draws, step), draws.sigma), y)
                for step, delta in enumerate(deltas)
            ]
        total = torch.stack(losses).sum()
        return total - total.detach()


def rank_gaussian(scores: Tensor, normals: Tensor) -> Tensor:
    """The normals of each channel plane (b, c, h, w) in the order of the scores: the k-th smallest where that score is.

    Raises:
        ValueError: if the shapes differ.
    """
    if scores.shape != normals.shape:
        raise ValueError(f"scores and normals must have one shape, got {tuple(scores.shape)}, {tuple(normals.shape)}")
    ranks = scores.flatten(2).argsort(dim=2).argsort(dim=2)
    return normals.flatten(2).sort(dim=2).values.gather(2, ranks).view_as(scores)
