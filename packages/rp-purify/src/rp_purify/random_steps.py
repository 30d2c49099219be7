"""Steps of random signs: what sign descent does to an image if its direction means nothing."""

import torch
from rp_models import noise
from torch import Tensor

from rp_purify.descent import check_steps
from rp_purify.gradient import clip_to_ball, clip_to_image
from rp_purify.purifier import Purifier


class RandomSteps(Purifier):
    """Moves every pixel up or down at random, in steps of the size and in the ball of `SignDescent`: its control.

    Args:
        step_size: in [0, 1] pixel units.
        steps: number of steps.
        eta: no pixel changes by more; None for no limit.
        halve: use half the step size in the second half of the steps.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        *,
        step_size: float,
        steps: int,
        eta: float | None,
        halve: bool = True,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        check_steps(step_size, steps, eta)
        self.step_size, self.steps, self.eta, self.halve = step_size, steps, eta, halve

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after the steps."""
        image = x
        for step in range(1, self.steps + 1):
            rate = self.step_size / 2 if self.halve and 2 * step > self.steps else self.step_size
            unit = noise.uniform(x.shape[1:], seed=seed, purpose=f"sign {step}", index=index, dtype=x.dtype)
            image = clip_to_image(clip_to_ball(image + rate * torch.sign(unit - 0.5), x, self.eta))
        return image
