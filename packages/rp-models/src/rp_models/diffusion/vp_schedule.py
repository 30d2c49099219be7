"""Noise schedules of the variance-preserving process x_t = sqrt(abar) x + sqrt(1 - abar) n, in tables and in time.

In EDM's coordinates the same state is y = x_t / sqrt(abar) = x + sigma n with sigma^2 = (1 - abar) / abar. Tables are
float64 and counted from 0: entry i of `abar` is the product of 1 - beta over the entries 0..i.

Source: Ho et al. 2020, arXiv:2006.11239; Nichol and Dhariwal 2021, arXiv:2102.09672; Song et al., arXiv:2011.13456.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

BetaSchedule = Literal["linear", "cosine"]


@dataclass(frozen=True, eq=False)
class DiscreteSchedule:
    """A table of betas with what follows from it.

    Attributes:
        betas: (n,) float64, the share of variance that each step adds.
        kept: index that the network was trained with, for each entry: 0, 1, 2, ... unless the table was respaced.
    """

    betas: Tensor
    kept: tuple[int, ...]

    @classmethod
    def linear(cls, first: float = 1e-4, last: float = 2e-2, count: int = 1000) -> "DiscreteSchedule":
        """Betas at equal distances; the defaults are DDPM's, ADBM samples with `first=1e-6`."""
        return cls(torch.linspace(first, last, count, dtype=torch.float64, device="cpu"), tuple(range(count)))

    @classmethod
    def named(cls, name: BetaSchedule, count: int = 1000) -> "DiscreteSchedule":
        """The two schedules of guided-diffusion: "linear" (1e-4 to 0.02 for 1,000 steps) or "cosine".

        Raises:
            ValueError: for another name.
        """
        if name == "linear":
            return cls.linear(0.1 / count, 20 / count, count)
        if name != "cosine":
            raise ValueError(f"the noise schedule must be 'linear' or 'cosine', got {name!r}")
        signal = [math.cos((step / count + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(count + 1)]
        betas = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(signal)]
        return cls(torch.tensor(betas, dtype=torch.float64, device="cpu"), tuple(range(count)))

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def abar(self) -> Tensor:
        """(n,): the signal's share of the variance, the product of 1 - beta."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def sigma(self) -> Tensor:
        """(n,): the noise levels in EDM's coordinates."""
        return ((1 - self.abar) / self.abar).sqrt()

    @cached_property
    def posterior_variance(self) -> Tensor:
        """(n,): the variance of x_{i-1} given x_i and the clean image; 0 for the first entry."""
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.abar[:-1]])
        return self.betas * (1 - before) / (1 - self.abar)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """(n,): its logarithm, the first entry replaced by the second."""
        variance = self.posterior_variance
        return torch.cat([variance[1:2], variance[1:]]).log()

    @cached_property
    def posterior_mean(self) -> tuple[Tensor, Tensor]:
        """The two coefficients (n,) of the posterior mean, of the clean image and of x_i."""
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.abar[:-1]])
        clean = self.betas * before.sqrt() / (1 - self.abar)
        return clean, (1 - before) * (1 - self.betas).sqrt() / (1 - self.abar)

    def respaced(self, count: int) -> "DiscreteSchedule":
        """The process that keeps `count` of the entries at equal distances, first and last among them.

        Raises:
            ValueError: unless 2 <= count <= n.
        """
        if not 2 <= count <= len(self):
            raise ValueError(f"a schedule of {len(self)} steps keeps 2 to {len(self)} of them, got {count}")
        stride, place, kept = (len(self) - 1) / (count - 1), 0.0, []
        for _ in range(count):  # summed in floating point, as the public code does
            kept.append(round(place))
            place += stride
        return self.keep(kept)

    def keep(self, kept: Sequence[int]) -> "DiscreteSchedule":
        """The process of those entries alone, in rising order, with the betas that lead from one to the next."""
        abar = self.abar[list(kept)]
        before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        return DiscreteSchedule(1 - abar / before, tuple(self.kept[index] for index in kept))


def continuous_abar(t: float, beta_d: float = 19.9, beta_min: float = 0.1) -> float:
    """The signal's share of the variance at a time in [0, 1], exp(-beta_d t^2 / 2 - beta_min t)."""
    return math.exp(-beta_d * t * t / 2 - beta_min * t)


def continuous_beta(t: float, beta_d: float = 19.9, beta_min: float = 0.1) -> float:
    """The rate beta(t) at which variance is added at a time in [0, 1]."""
    return beta_min + beta_d * t


def edm_sigma(abar: float) -> float:
    """The noise level sigma in EDM's coordinates of a signal share abar."""
    return math.sqrt((1 - abar) / abar)
