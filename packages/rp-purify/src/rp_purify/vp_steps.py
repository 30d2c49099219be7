"""Steps of the variance-preserving process, on its own state x_t: the reverse SDE, DDIM, and the posterior of DDPM.

Source: Song et al. 2021, arXiv:2011.13456 and (DDIM) arXiv:2010.02502, Eq. 12; Ho et al. 2020, arXiv:2006.11239.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rp_models.diffusion.discrete import DiscreteVPPrecond, learned_log_variance, posterior_step
from rp_models.diffusion.vp_schedule import DiscreteSchedule, continuous_abar, continuous_beta, edm_sigma
from rp_models.values import as_values
from torch import Tensor, nn

from rp_purify.reverse import Seen, Shift, denoise
from rp_purify.settings.rivals import Variance

_END = 1e-5  # the reverse SDE's last time
_DT = 1e-3


@dataclass(frozen=True)
class EulerMaruyama:
    """One Euler-Maruyama step of the reverse SDE, from time `t` to `t - dt`.

    x + (beta/2 x + beta score) dt + sqrt(beta dt) n, with the score -eps / s(t) of the continuous schedule.
    """

    t: float
    dt: float
    random: bool = True  # False: the mean alone

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: Shift) -> Tensor:
        """The state after the step."""
        state = state + self.drift(model, state, shift) * self.dt
        return state if unit is None else state + self.diffusion * unit

    @property
    def diffusion(self) -> float:
        """The noise's standard deviation."""
        return math.sqrt(continuous_beta(self.t) * self.dt)

    def drift(self, model: nn.Module, state: Tensor, shift: Shift) -> Tensor:
        """beta/2 x + beta score, the change per time on the way back."""
        return continuous_beta(self.t) * (state / 2 + vp_score(model, state, self.t, shift))


@dataclass(frozen=True)
class LangevinCorrector:
    """One step of Langevin dynamics at time `t`, whose size is told by the sizes of noise and score of each image.

    Source: Algorithm 5 of arXiv:2011.13456.
    """

    t: float
    snr: float = 0.16
    random = True

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: Shift) -> Tensor:
        """The state after the step."""
        assert unit is not None
        score = vp_score(model, state, self.t, shift)
        share = unit.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
        alpha = 1 - float(DiscreteSchedule.linear().betas[math.floor(999 * self.t + 1e-6)])
        size = (2 * alpha * (self.snr * share).square()).view(-1, 1, 1, 1)
        return state + size * score + (2 * size).sqrt() * unit


def vp_score(model: nn.Module, state: Tensor, t: float, shift: Shift) -> Tensor:
    """-eps / s(t) of the continuous schedule at x_t."""
    abar = continuous_abar(t)
    sigma = edm_sigma(abar)
    y = state / math.sqrt(abar)
    denoised = denoise(model, y, sigma, vp_label(model, t))
    return -(y - denoised - shift(Seen(y, denoised, sigma))) / (sigma * math.sqrt(1 - abar))


def vp_label(model: nn.Module, t: float) -> float:
    """What the network is told of a time: the whole thousandths (in float32) if it is a discrete one, else 999 t."""
    if isinstance(model, DiscreteVPPrecond):
        return math.floor(float(torch.tensor(t, dtype=torch.float32, device="cpu") * 1000))
    return 999 * t


def predictor_corrector_steps(times: int) -> list[EulerMaruyama | LangevinCorrector]:
    """A corrector and a predictor at each of the last `times` of 1,000 times from 1 to 1/1000; the last adds no noise.

    Raises:
        ValueError: unless 1 <= times <= 1000.
    """
    check_times(times)
    grid = [1 - step * 0.999 / 999 for step in range(1000 - times, 1000)]
    last = len(grid) - 1
    return [
        step
        for number, t in enumerate(grid)
        for step in (LangevinCorrector(t), EulerMaruyama(t, _DT, random=number < last))
    ]


def sde_steps(times: int) -> list[EulerMaruyama]:
    """The steps of 1/1000 from t = times/1000 to 1e-5, on the grid of the public code, which is kept in float32.

    Raises:
        ValueError: unless 1 <= times <= 1000.
    """
    check_times(times)
    last = torch.tensor(1 - _END, dtype=torch.float32, device="cpu")
    here = torch.tensor(1 - times / 1000, dtype=torch.float32, device="cpu")
    steps = []
    while here < last:
        ahead = torch.minimum(here + _DT, last)
        steps.append(EulerMaruyama(float(1 - here), float(ahead) - float(here)))
        here = ahead
    return steps


@dataclass(frozen=True)
class DDIM:
    """One step of DDIM between two signal shares; `eta` 0 is deterministic, 1 is DDPM's posterior.

    With `clip` the denoised image is limited to [-1, 1], and the direction to the noise keeps pointing from the one
    that is not, as the public schedulers do.
    """

    label: int
    abar: float
    following: float
    eta: float = 0.0
    clip: bool = False

    @property
    def random(self) -> bool:
        """Whether it adds noise."""
        return self.eta > 0 and self.following < 1

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: Shift) -> Tensor:
        """The state after the step."""
        sigma = edm_sigma(self.abar)
        y = state / math.sqrt(self.abar)
        denoised = denoise(model, y, sigma, self.label)
        clean = limited(denoised) if self.clip else denoised
        variance = 1 - self.following
        noise = self.eta**2 * (1 - self.abar / self.following) * variance / (1 - self.abar)
        eps = (y - denoised) / sigma
        clean = clean + shift(Seen(y, clean, sigma, noise))
        state = math.sqrt(self.following) * clean + math.sqrt(max(variance - noise, 0.0)) * eps
        return state if unit is None else state + math.sqrt(noise) * unit


@dataclass(frozen=True)
class Posterior:
    """One ancestral step through the posterior mean of the denoised image, limited to [-1, 1].

    The variance is the posterior's, the "large" one (beta), or the network's own ("learned").
    """

    schedule: DiscreteSchedule
    index: int
    variance: Variance

    @property
    def random(self) -> bool:
        """Whether it adds noise."""
        return self.index > 0

    def __call__(self, model: nn.Module, state: Tensor, unit: Tensor | None, shift: Shift) -> Tensor:
        """The state after the step."""
        abar, sigma = float(self.schedule.abar[self.index]), float(self.schedule.sigma[self.index])
        label = self.schedule.kept[self.index]
        y = state / math.sqrt(abar)
        log_variance: Tensor | float
        if self.variance == "learned":
            assert isinstance(model, DiscreteVPPrecond)
            prediction = model.with_variance(y, sigma, noise_label=label)
            denoised = prediction.denoised
            log_variance = learned_log_variance(prediction.v, self.schedule, self.index)
        else:
            denoised, log_variance = denoise(model, y, sigma, label), self.log_variance
        log_variance = as_values(log_variance, device=state.device, dtype=state.dtype)
        clean = limited(denoised)
        clean = clean + shift(Seen(y, clean, sigma, log_variance.exp()))
        unit = torch.zeros_like(state) if unit is None else unit
        return posterior_step(state, clean, log_variance, unit, self.schedule, self.index)[1]

    @property
    def log_variance(self) -> float:
        """Of a fixed variance; at entry 0 that of entry 1, which its guidance alone uses."""
        table = self.schedule.posterior_log_variance
        if self.variance == "posterior" or self.index == 0:
            return float(table[self.index])
        return float(self.schedule.betas[self.index].log())


def posterior_steps(schedule: DiscreteSchedule, count: int, variance: Variance) -> list[Posterior]:
    """The last `count` steps of the process, from entry count - 1 to 0."""
    return [Posterior(schedule, index, variance) for index in range(count - 1, -1, -1)]


def ddim_steps(
    schedule: DiscreteSchedule, indices: Sequence[int], *, eta: float = 0.0, clip: bool = False
) -> list[DDIM]:
    """Steps through falling entries of the table and from the last to the image."""
    shares = [float(schedule.abar[index]) for index in indices] + [1.0]
    return [DDIM(schedule.kept[index], shares[step], shares[step + 1], eta, clip) for step, index in enumerate(indices)]


def noised(schedule: DiscreteSchedule, index: int) -> tuple[float, float]:
    """What images and unit noise are multiplied with to be at an entry of the table.

    Raises:
        ValueError: if there is no such entry.
    """
    if not 0 <= index < len(schedule):
        raise ValueError(f"times must be in 1..{len(schedule)}, got {index + 1}")
    return float(schedule.abar[index].sqrt()), float((1 - schedule.abar[index]).sqrt())


def limited(x: Tensor) -> Tensor:
    """Images limited to [-1, 1], with derivative 1 on the closed interval."""
    return torch.where(x < -1, -torch.ones_like(x), torch.where(x > 1, torch.ones_like(x), x))


def check_times(times: int) -> None:
    """Raise ValueError unless `times` is a whole number of 1..1000."""
    if isinstance(times, float):
        raise ValueError(f"times counts thousandths, 100 for t* = 0.1, got {times}")
    if not 1 <= times <= 1000:
        raise ValueError(f"times must be in 1..1000, got {times}")
