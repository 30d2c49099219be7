"""Purification by sign descent on a loss in a small ball around the image: what MAE-Pure and MaskDiT-Pure share.

Source: Algorithm 1 and Eq. 2-3 of "MAE-Pure: Semantic-Preserving Adversarial Purification".
"""

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor, nn

from rp_purify.gradient import CURVED, clip_to_ball, replay, smooth_step
from rp_purify.onednn import onednn_where_it_gains
from rp_purify.purifier import Purifier, follow, frozen
from rp_purify.settings import Freshness


class SignDescent(Purifier):
    """x_s = Clip(x_{s-1} - lambda_s sign(grad L(x_{s-1}; U_s)), eta), from the given image; a subclass writes `loss`.

    Clip projects to the ball |x_s - x_0| <= eta of the maximum norm and to [0, 1]. No parameter ever gets a gradient.

    Args:
        step_size: lambda, in pixel units of [0, 1].
        steps: number of steps S; 0 is the identity.
        eta: radius in pixel units of [0, 1]; None for no limit.
        halve: use half the step size in the second half of the steps.
        fresh: whether each call that names no seed draws other noise.
        grad: the backward rule. "exact": a pixel follows the input with derivative 1, or 0 where [0, 1] stopped it;
            "identity": 1 everywhere; "ste-tanh" and "normalised": see `rp_purify.gradient`.
    """

    gradients = ("exact", "identity", *CURVED)

    def __init__(
        self,
        model: nn.Module,
        *,
        step_size: float,
        steps: int,
        eta: float | None,
        halve: bool,
        fresh: bool,
        seed: int | None = None,
        grad: str = "exact",
    ) -> None:
        check_steps(step_size, steps, eta)
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        self.model = model
        self.step_size, self.steps, self.eta, self.halve = step_size, steps, eta, halve

    def loss(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        """The loss of each image (b,), differentiable, with noise from (seed, index, step)."""
        raise NotImplementedError

    def rate(self, step: int) -> float:
        """The step size lambda_s of step s = 1..S."""
        return self.step_size / 2 if self.halve and 2 * step > self.steps else self.step_size

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after S steps."""
        if self.grad in CURVED and x.requires_grad and torch.is_grad_enabled():
            return replay(self, x, self.grad, seed=seed, index=index)
        for purified, follows in self._descend(x, seed, index):  # noqa: B007 (the last ones are wanted)
            pass
        return follow(x, purified, follows)

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after S true steps with one stored graph through a curved rule, to `x` and to the weights.

        Memory grows with S; this is for training with a few steps.

        Raises:
            ValueError: if the backward rule is not a curved one. The sign's own derivative is zero, so that the weights
                would get no gradient at all.
        """
        if self.grad not in CURVED:
            raise ValueError(
                f"the weights get no gradient through sign steps with grad={self.grad!r}; train with "
                f"with_gradient(name), name one of {', '.join(CURVED)}, or through a one-shot reconstruction"
            )
        center = image = x if x.requires_grad else x.detach().requires_grad_()
        for step in range(1, self.steps + 1):
            image = smooth_step(self, image, center, self.grad, seed=seed, index=index, step=step)
        return image

    def trajectory(self, x: Tensor, *, seed: int, index: Tensor) -> Iterator[Tensor]:
        """The images x_0, ..., x_S, without gradients."""
        for image, _ in self._descend(x, seed, index):
            yield image

    def reconstruction_loss(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The loss (b,) that the first step descends, differentiable in the images and not in the weights."""
        with frozen(self.model):
            return self.loss(x, seed=seed, index=index, step=1)

    def loss_gradient(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        """The gradient (b, c, h, w) of each image's loss in that image, detached."""
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model), onednn_where_it_gains(self.model):
            leaf = x.detach().clone().requires_grad_()
            (g,) = torch.autograd.grad(self.loss(leaf, seed=seed, index=index, step=step).sum(), leaf)
        return g

    def _descend(self, x: Tensor, seed: int, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The images x_0, ..., x_S, and which of their pixels have derivative 1 in x_0 (the others have 0)."""
        center = image = x.detach()
        follows = torch.ones_like(x, dtype=torch.bool)
        yield image, follows
        for step in range(1, self.steps + 1):
            g = self.loss_gradient(image, seed=seed, index=index, step=step)
            moved = image - self.rate(step) * (g.sign() + 0 * g)  # sign(nan) is 0: what is not finite shall show
            clipped = clip_to_ball(moved, center, self.eta)
            image = clipped.clamp(0, 1)
            follows = (follows | (clipped != moved)) & (image == clipped)
            yield image, follows


def draw_number(freshness: Freshness, step: int) -> int:
    """Which of an image's draws a step uses: its own if "fresh", number 0 in all steps if "fixed"."""
    if freshness not in get_args(Freshness):
        raise ValueError(f"noise is drawn 'fresh' in each step or 'fixed' for the image, got {freshness!r}")
    return step if freshness == "fresh" else 0


def check_steps(step_size: float, steps: int, eta: float | None) -> None:
    """Raise ValueError for settings out of range."""
    if step_size <= 0:
        raise ValueError(f"step_size must be positive, in units of [0, 1] pixels such as 1/255, got {step_size}")
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    if eta is not None and eta < 0:
        raise ValueError(f"eta must not be negative (None for no limit), got {eta}")
    if step_size >= 1 or (eta or 0) >= 1:
        raise ValueError(f"step_size and eta are in units of [0, 1] pixels, got {step_size} and {eta}; divide by 255")
