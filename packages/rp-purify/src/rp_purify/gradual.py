"""Gradual purification: several rounds of a little noise, each followed by a few large denoising steps.

Source: Lee and Kim 2023, arXiv:2303.09051, and its public code, whose attack differentiates a shorter process.
"""

from collections.abc import Sequence

from rp_models.diffusion.vp_schedule import DiscreteSchedule
from rp_models.settings import within
from torch import Tensor, nn

from rp_purify.gradient import straight_through
from rp_purify.reverse import ReverseDiffusion, Round
from rp_purify.vp_steps import ddim_steps, noised


class GradualPurify(ReverseDiffusion):
    """DDPM or DDIM rounds: noise to step max, and back to the image in a number of equal steps.

    The published gradient is "surrogate": the image of the whole process, with the derivative of one of the same rounds
    in fewer steps and with the same noise.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        times: the largest time step of each round, counted from 1.
        steps: denoising steps of each round.
        eta: 1 for DDPM, 0 for DDIM, or between.
        surrogate: rounds of the backward pass's process, pairs of time and steps.

    Raises:
        ValueError: for steps or times out of range.
    """

    gradients = ("exact", "identity", "surrogate")

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        times: Sequence[int] = (30, 30, 30, 30, 50, 50, 125, 125),
        steps: Sequence[int] | None = None,
        eta: float = 1.0,
        surrogate: Sequence[tuple[int, int]] = ((30, 1), (50, 1), (125, 5)),
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(denoiser, seed=seed, fresh=fresh, grad=grad)
        self.times = tuple(times)
        self.steps = tuple(times) if steps is None else tuple(steps)
        if len(self.times) != len(self.steps):
            raise ValueError(f"one number of steps belongs to each of {len(self.times)} rounds, got {self.steps}")
        self.eta, self.surrogate = eta, tuple((int(time), int(count)) for time, count in surrogate)
        within(self, eta="[0, 1]")
        for rounds in (zip(self.times, self.steps, strict=True), self.surrogate):
            for time, count in rounds:
                if not 1 <= count <= time <= 1000:
                    raise ValueError(f"expected 1 <= steps <= times <= 1000, got {count} steps over {time} times")

    @property
    def rounds(self) -> list[Round]:
        """Start and steps of each round."""
        return [self._round(*each) for each in zip(self.times, self.steps, strict=True)]

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all rounds."""
        if self.grad != "surrogate" or not x.requires_grad:
            return super().purify(x, seed=seed, index=index)
        times, steps = zip(*self.surrogate, strict=True)
        shorter = GradualPurify(self.model, times=times, steps=steps, eta=self.eta)
        purified = super().purify(x.detach(), seed=seed, index=index)
        return straight_through(purified, shorter.purify(x, seed=seed, index=index))

    def _round(self, time: int, count: int) -> Round:
        schedule, stride = DiscreteSchedule.linear(), time // count
        indices = [stride * (step + 1) - 1 for step in range(count)][::-1]
        return Round(*noised(schedule, time - 1), ddim_steps(schedule, indices, eta=self.eta))
