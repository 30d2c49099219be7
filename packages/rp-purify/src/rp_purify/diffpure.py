"""DiffPure: noise, then the reverse diffusion.

The variance-preserving process needs a denoiser D(x; sigma) alone: x_edm = x_vp / sqrt(abar) and
sigma = sqrt((1 - abar) / abar), so that any EDM network does.

Source: Nie et al. 2022, arXiv:2205.07460; Karras et al. 2022, arXiv:2206.00364, section 2.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import get_args

from rp_models.diffusion.discrete import DiscreteVPPrecond
from rp_models.diffusion.vp_schedule import DiscreteSchedule, continuous_abar
from rp_models.settings import check_choice
from torch import Tensor, nn

from rp_purify.adjoint import solved_back
from rp_purify.reverse import Ancestral, Draw, Heun, Place, ReverseDiffusion, Round, Seen, Step
from rp_purify.settings import Solver
from rp_purify.vp_steps import EulerMaruyama, check_times, noised, posterior_steps, predictor_corrector_steps, sde_steps

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
    sigma = _sigma()
    return [sigma[round(times * (1 - step / steps))] for step in range(steps + 1)]


@functools.cache
def _sigma() -> tuple[float, ...]:
    """0 and the noise levels of the 1,000 time steps."""
    return (0.0, *DiscreteSchedule.linear().sigma.tolist())


class DiffPure(ReverseDiffusion):
    """Noises images to a time t* and runs the reverse diffusion from there, in one round or several.

    | solver | reverse process |
    |---|---|
    | sde | ancestral (DDPM) steps between noise levels, which agree with the next to first order; ends at D |
    | euler-maruyama | the published one: steps of 1/1000 of the reverse SDE, which leave noise of 1.4/255 at the end |
    | ddpm | the published one's other runner: posterior steps, with the variance that the network has learned if any |
    | predictor-corrector | ADDT's for VP networks: a step of Langevin dynamics before each of Euler-Maruyama |
    | ode | Heun steps along the probability flow |

    The exact gradient recomputes each step, at the memory of one image a step. The published gradient, "adjoint" (of
    Euler-Maruyama alone), solves for the states backwards from the result, and so differs a little from the exact one.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        times: t* in thousandths: 100 (CIFAR-10, maximum norm), 75 (L2), 150 (ImageNet); several for several rounds,
            e.g. `GRADUAL_CIFAR10`.
        steps: denoising steps of a round, of the solvers sde and ode; None for one each thousandth, as in the paper.
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
        check_choice("solver", solver, get_args(Solver))
        if isinstance(times, float):
            raise ValueError(f"times counts thousandths, 100 for t* = 0.1, got {times}")
        self.solver = solver  # which says what gradients there are
        super().__init__(denoiser, seed=seed, fresh=fresh, grad=grad)
        if steps is not None and solver not in ("sde", "ode"):
            raise ValueError(f"the solver {solver!r} has one step each thousandth; leave out steps={steps}")
        self.times = (times,) if isinstance(times, int) else tuple(times)
        self.steps = steps
        _ = self.rounds  # complains about times and steps out of range

    @property
    def rounds(self) -> list[Round]:
        """Start and steps of each round."""
        return [self._round(time) for time in self.times]

    @property
    def gradients(self) -> tuple[str, ...]:  # type: ignore[override]
        """The backward rules."""
        return ("exact", "identity", "adjoint") if self.solver == "euler-maruyama" else ("exact", "identity")

    def solved(self, state: Tensor, number: int, steps: Sequence[Step], x: Tensor, draw: Draw) -> Iterator[Tensor]:
        """The states of one round; with the adjoint method only its result."""
        if self.grad != "adjoint":
            yield from super().solved(state, number, steps, x, draw)
            return

        def unit(step: int) -> Tensor:
            return draw(f"step {step} of round {number}")

        def shift(seen: Seen) -> Tensor | float:
            return self.shift(seen, Place(number, 0), x.detach(), draw)

        yield solved_back(state, self.model, [step for step in steps if isinstance(step, EulerMaruyama)], unit, shift)

    def _round(self, time: int) -> Round:
        if self.solver in ("sde", "ode"):
            levels = vp_levels(time, time if self.steps is None else min(self.steps, time))
            kind = Ancestral if self.solver == "sde" else Heun
            return Round(1.0, levels[0], [kind(*pair) for pair in itertools.pairwise(levels)])
        if self.solver == "predictor-corrector":
            steps = predictor_corrector_steps(time)
            abar = continuous_abar(steps[0].t)
            return Round(abar**0.5, (1 - abar) ** 0.5, steps)
        schedule = DiscreteSchedule.linear()
        signal, std = noised(schedule, time - 1)
        if self.solver == "euler-maruyama":
            return Round(signal, std, sde_steps(time))
        check_times(time)
        learned = isinstance(self.model, DiscreteVPPrecond) and self.model.learn_sigma
        return Round(signal, std, posterior_steps(schedule, time, "learned" if learned else "posterior"))
