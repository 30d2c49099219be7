"""Networks of the discrete variance-preserving process (DDPM, improved and guided diffusion) as denoisers D(x, sigma).

Such a network is told the index of a step. It predicts the noise and, with a learned variance, in as many channels
again where the step's variance lies between its two natural bounds.

Source: Nichol and Dhariwal 2021, arXiv:2102.09672; Dhariwal and Nichol 2021, arXiv:2105.05233; the preconditioning of
Karras et al. 2022, arXiv:2206.00364, appendix C.3.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rp_models.diffusion.precondition import Coefficients, Precond
from rp_models.diffusion.vp_schedule import BetaSchedule, DiscreteSchedule
from rp_models.settings import check_choice
from rp_models.values import as_values

Rounding = Literal["fractional", "nearest"]


class DiscreteVPPrecond(Precond):
    """A network with a table of noise levels, in EDM's terms.

    Args:
        noise_schedule: how its betas were spaced, "linear" or "cosine".
        M: number of time steps the network was trained with.
        learn_sigma: whether it has a second set of output channels for the variance.
        rounding: the index that it is told at a level between two entries: "fractional", interpolated in log sigma, or
            the "nearest" one.
        others: see `Precond`.

    Raises:
        ValueError: for an unknown schedule or rounding.
    """

    levels: Tensor

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        *,
        noise_schedule: BetaSchedule = "linear",
        M: int = 1000,
        learn_sigma: bool = True,
        rounding: Rounding = "fractional",
        model_type: str = "DhariwalUNet",
        **others: Any,
    ) -> None:
        check_choice("rounding", rounding, get_args(Rounding))
        schedule = DiscreteSchedule.named(noise_schedule, M)
        low, high = float(schedule.sigma[0]), float(schedule.sigma[-1])
        others |= {"model_type": model_type, "out_channels": img_channels * (2 if learn_sigma else 1)}
        super().__init__(img_resolution, img_channels, sigma_min=low, sigma_max=high, **others)
        self.noise_schedule, self.M, self.learn_sigma, self.rounding = noise_schedule, M, learn_sigma, rounding
        self.register_buffer("levels", schedule.sigma.log().float().to(_default_device()), persistent=False)

    @property
    def schedule(self) -> DiscreteSchedule:
        """The table that the network was trained with."""
        return DiscreteSchedule.named(self.noise_schedule, self.M)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The four scalings at noise levels of any shape; levels outside the table count as its ends."""
        return Coefficients(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=1 / (sigma.square() + 1).sqrt(),
            c_noise=self.index(sigma),
        )

    def index(self, sigma: Tensor) -> Tensor:
        """The index (a float) that belongs to noise levels of any shape."""
        log = sigma.log().clamp(self.levels[0], self.levels[-1]).contiguous()
        above = torch.searchsorted(self.levels, log).clamp(1, self.M - 1)
        low, high = self.levels[above - 1], self.levels[above]
        share = (log - low) / (high - low)
        if self.rounding == "nearest":
            middle = (low.exp() + high.exp()) / 2
            share = (sigma > middle).to(share.dtype)
        return above - 1 + share

    def with_variance(self, x: Tensor, sigma: Tensor | float, *, noise_label: float) -> "Prediction":
        """The denoised images and the learned variance at the label of one time step; arguments as of `forward`.

        Raises:
            ValueError: if the network has no learned variance.
        """
        if not self.learn_sigma:
            raise ValueError("this network has no learned variance (learn_sigma=False); use a fixed one")
        x, c, labels = self._prepare(x, sigma, None, None)
        with self._precision(x.device, force_fp32=False):
            raw = self.model(c.c_in * x, c.c_noise.new_full((1,), noise_label), labels).to(torch.float32)
        return Prediction(self._output(x, c, raw), raw[:, self.img_channels :])

    def _output(self, x: Tensor, c: Coefficients, raw: Tensor) -> Tensor:
        return super()._output(x, c, raw[:, : self.img_channels])


class Prediction(NamedTuple):
    """What a network with learned variance says: the denoised images, and v, -1 and 1 at the variance's bounds."""

    denoised: Tensor
    v: Tensor


def learned_log_variance(v: Tensor, schedule: DiscreteSchedule, index: int) -> Tensor:
    """The log variance of the step from entry `index` to the one before, from the network's v.

    It lies between those of the posterior (v = -1) and of beta (v = 1); v is not limited to that range.
    """
    share = (v + 1) / 2
    low, high = float(schedule.posterior_log_variance[index]), float(schedule.betas[index].log())
    return share * high + (1 - share) * low


def posterior_step(
    x: Tensor, clean: Tensor, log_variance: Tensor | float, unit: Tensor, schedule: DiscreteSchedule, index: int
) -> tuple[Tensor, Tensor]:
    """One ancestral step of the process from x_i, given an estimate of the clean image, with a unit normal draw.

    Returns:
        The posterior mean and x_{i-1}, which has no noise at entry 0.
    """
    of_clean, of_x = (float(coefficient[index]) for coefficient in schedule.posterior_mean)
    mean = of_clean * clean + of_x * x
    std = (as_values(log_variance, device=x.device, dtype=x.dtype) / 2).exp()
    return mean, mean + std * unit if index > 0 else mean


def _default_device() -> torch.device:
    """Where new tensors are made now, the meta device while a network is only looked at."""
    return torch.empty(0).device
