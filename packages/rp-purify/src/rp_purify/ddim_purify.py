"""A few DDIM steps back from a low noise level: how ADBM purifies with its tuned network.

Source: Li et al. 2025 (ADBM), arXiv:2408.00315, and its public code; Song et al. 2021, arXiv:2010.02502.
"""

from typing import get_args

from rp_models.diffusion.vp_schedule import DiscreteSchedule
from rp_models.settings import at_least, check_choice, require
from torch import nn

from rp_purify.reverse import ReverseDiffusion, Round
from rp_purify.settings.rivals import Table
from rp_purify.vp_steps import DDIM, check_times, noised

_FIRST = {"adbm": 1e-6, "vp": 1e-4}


class DDIMPurify(ReverseDiffusion):
    """Noises images to time step `times` and leads them back in a few deterministic steps; the defaults are ADBM's.

    The start's noise is one entry beyond the label of the first step, as published. With a network tuned by
    `rp_purify.bridge.BridgeLoss` this is ADBM.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        times: of the start, in thousandths.
        steps: denoising steps of a round.
        clip_denoised: limit each denoised image to [-1, 1].
        schedule: the table of betas, linear from 1e-6 ("adbm") or 1e-4 ("vp") to 0.02.
        stack: how often all of it is done.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        times: int = 100,
        steps: int = 5,
        clip_denoised: bool = True,
        schedule: Table = "adbm",
        stack: int = 1,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(denoiser, seed=seed, fresh=fresh, grad=grad)
        check_times(times)
        require(
            1 <= steps <= times < 1000, f"expected 1 <= steps <= times < 1000, got {steps} steps over {times} times"
        )
        self.times, self.steps, self.clip_denoised = times, steps, clip_denoised
        self.schedule, self.stack = schedule, stack
        at_least(self, stack=1)
        check_choice("schedule", self.schedule, get_args(Table))

    @property
    def rounds(self) -> list[Round]:
        """Start and steps of each round."""
        table = DiscreteSchedule.linear(_FIRST[self.schedule])
        abar = table.abar.tolist()
        whole = int(1000 / (self.times / self.steps))  # steps from pure noise, spaced so that the last come here
        labels = [round(1000 - step * 1000 / whole) - 1 for step in range(whole)][-self.steps :]
        before = [label - 1000 // whole for label in labels]
        shares = [abar[label] if label >= 0 else 1.0 for label in before]
        steps = [
            DDIM(label, abar[label], share, clip=self.clip_denoised)
            for label, share in zip(labels, shares, strict=True)
        ]
        return [Round(*noised(table, self.times), steps)] * self.stack
