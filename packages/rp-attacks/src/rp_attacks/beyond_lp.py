"""Attacks outside the Lp balls: a square patch of any pixels, and a smooth shift of pixels (StAdv).

No norm bounds them: their ball is the whole box, and what they may do is told by their own settings. They are therefore
no part of a suite, whose worst case is that of a ball.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import Classifier, query, with_gradient
from rp_attacks.eot import expected_gradient, margins
from rp_attacks.losses import LOSSES, Loss
from rp_attacks.noise import derive_seed, uniform
from rp_attacks.norms import Norm, repaired
from rp_attacks.pgd import Best
from rp_attacks.problem import check_choice, check_positive
from rp_attacks.resume import resumable


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parametrised(ImageAttack):
    """Sign ascent on what makes the images, from the loss's gradient in the images."""

    steps: int = 100
    loss: Loss = "cw"
    restarts: int = 1
    eot: int = 1  # passes averaged in each gradient
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, restarts=self.restarts, eot=self.eot)
        check_choice("loss", self.loss, tuple(LOSSES))

    @property
    def norm(self) -> Norm:
        """That of the box."""
        return "linf"

    @property
    def eps(self) -> float:
        """The whole box."""
        return 1.0

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        model = with_gradient(model, self.grad)
        best = Best(x)
        for restart in resumable("restarts", self.restarts, best):
            drawn = derive_seed(seed, "restart", restart)
            made = self._run(model, x, y, drawn, index)
            score, wrong = margins(model, made, y, seed=derive_seed(drawn, "last"), index=index, passes=self.eot)
            best.offer(slice(None), made, score, wrong)
        return best.images

    def _run(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        parameters, place = self._first(x, seed, index)
        for step in range(self.steps):
            leaf = parameters.detach().requires_grad_()
            images = self._images(leaf, x, place)
            sample = expected_gradient(
                model,
                images.detach(),
                y,
                LOSSES[self.loss],
                seed=derive_seed(seed, "step", step),
                index=index,
                passes=self.eot,
                check=step == 0,
            )
            value = (images * sample.grad).sum() - self._penalty(leaf).sum()
            grad, _ = repaired(torch.autograd.grad(value, leaf)[0])
            parameters = self._step(parameters, grad)
        return self._images(parameters, x, place).detach()

    @abstractmethod
    def _first(self, x: Tensor, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """The first parameters, and what does not change."""

    @abstractmethod
    def _images(self, parameters: Tensor, x: Tensor, place: Tensor) -> Tensor:
        """The images in [0, 1] that the parameters make."""

    @abstractmethod
    def _step(self, parameters: Tensor, grad: Tensor) -> Tensor:
        """Where a step up the gradient leads."""

    def _penalty(self, parameters: Tensor) -> Tensor:
        """What is subtracted from the loss of each image, (b,)."""
        return parameters.new_zeros(len(parameters))


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch(_Parametrised):
    """A square of any pixels, at a random place of each image or in its middle (Brown et al. 2017, arXiv:1712.09665).

    Each image has its own patch, the strongest form; `restarts` tries as many places.
    """

    side: int = 5  # of the square, in pixels; 5 of 32 cover 2.4% of the image
    step_size: float = 8 / 255
    place: Literal["random", "middle"] = "random"

    def __post_init__(self) -> None:
        _Parametrised.__post_init__(self)
        check_positive(side=self.side, step_size=self.step_size)
        check_choice("place", self.place, ("random", "middle"))

    def _first(self, x: Tensor, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        room = [size - self.side for size in x.shape[-2:]]
        if min(room) < 0:
            raise ValueError(f"a patch of {self.side} pixels does not fit images of {tuple(x.shape[-2:])}")
        where = uniform((2,), seed=seed, purpose="place", index=index, like=x) if self.place == "random" else None
        corners = [
            torch.full((len(x),), space // 2, device=x.device)
            if where is None
            else (where[:, axis] * (space + 1)).long()
            for axis, space in enumerate(room)
        ]
        inside = [
            (corner[:, None] <= (line := torch.arange(size, device=x.device))) & (line < corner[:, None] + self.side)
            for corner, size in zip(corners, x.shape[-2:], strict=True)
        ]
        mask = (inside[0][:, :, None] & inside[1][:, None, :])[:, None].to(x.dtype)
        return uniform(x.shape[1:], seed=seed, purpose="patch", index=index, like=x), mask

    def _images(self, parameters: Tensor, x: Tensor, place: Tensor) -> Tensor:
        return x + place * (parameters - x)

    def _step(self, parameters: Tensor, grad: Tensor) -> Tensor:
        return (parameters + self.step_size * grad.sign()).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class StAdv(_Parametrised):
    """Pixels are shifted by a smooth flow, and colours stay as they are (Xiao et al. 2018, arXiv:1801.02612).

    The paper bounds no flow; the bound is that of Laidlaw et al. 2021, arXiv:2006.12655.
    """

    bound: float = 0.05  # largest shift along each axis, as a share of half the image's side
    smoothness: float = 0.05  # tau, the weight of the differences of neighbouring shifts, in pixels

    def __post_init__(self) -> None:
        _Parametrised.__post_init__(self)
        check_positive(bound=self.bound)
        if self.smoothness < 0:
            raise ValueError(f"smoothness must not be negative, got {self.smoothness}")

    def _first(self, x: Tensor, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*x.shape[-2:], 2)
        draw = uniform(shape, seed=seed, purpose="flow", index=index, like=x)
        lines = [torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype) for size in x.shape[-2:]]
        down, right = torch.meshgrid(*lines, indexing="ij")
        return (2 * draw - 1) * self.bound / 10, torch.stack([right, down], dim=-1)[None]

    def _images(self, parameters: Tensor, x: Tensor, place: Tensor) -> Tensor:
        return F.grid_sample(x, place + parameters, padding_mode="border", align_corners=True).clamp(0, 1)

    def _step(self, parameters: Tensor, grad: Tensor) -> Tensor:
        return (parameters + 2.5 * self.bound / self.steps * grad.sign()).clamp(-self.bound, self.bound)

    def _penalty(self, parameters: Tensor) -> Tensor:
        """Xiao et al.'s L_flow: the length of the difference to each neighbour, in pixels."""
        sides = parameters.new_tensor(parameters.shape[1:3]).flip(0)
        shift = parameters * (sides - 1) / 2
        steps = (shift.diff(dim=1), shift.diff(dim=2))
        lengths = [(step.square().sum(dim=-1) + 1e-8).sqrt().sum(dim=(1, 2)) for step in steps]
        return self.smoothness * 2 * (lengths[0] + lengths[1])  # each pair is seen from both sides


def accuracy_under(
    attack: ImageAttack, model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor, batch_size: int = 128
) -> Tensor:
    """Which images a fresh pass still gets right after an attack, bool (b,)."""
    right = []
    for rows in torch.arange(len(x), device=x.device).split(batch_size):
        made = attack(model, x[rows], y[rows], seed=seed, index=index[rows])
        with torch.no_grad():
            logits = query(model, made, seed=derive_seed(seed, "verdict"), index=index[rows])
        right.append(logits.argmax(dim=1) == y[rows])
    return torch.cat(right)
