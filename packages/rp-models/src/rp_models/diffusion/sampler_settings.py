"""Settings of the samplers, each an experiment's hyper-parameters; importing this module does not import torch."""

import math
from dataclasses import dataclass

from rp_models.settings import require


@dataclass(frozen=True, kw_only=True, slots=True)
class HeunSettings:
    """EDM's sampler, for EDM and MaskDiT (Algorithm 2 of Karras et al. 2022, arXiv:2206.00364)."""

    steps: int = 18  # 2 steps - 1 network evaluations; published: 18 CIFAR-10, 20 DM-AT, 40 MaskDiT, 256 ImageNet-64
    sigma_min: float = 0.002  # lowest noise level before 0; the model's own limit counts too
    sigma_max: float = 80.0  # highest noise level
    rho: float = 7.0  # how strongly small levels are preferred
    S_churn: float = 0.0  # noise added over all steps; 0 for the deterministic sampler, 40 for ImageNet-64
    S_min: float = 0.0  # lowest level at which noise is added; 0.05 for ImageNet-64
    S_max: float | None = None  # highest level at which noise is added; None for no limit, 50 for ImageNet-64
    S_noise: float = 1.0  # factor on the added noise; 1.003 for ImageNet-64
    guidance: float = 1.0  # 1 for none; MaskDiT's published figures use 1.5, EDM's models know no guidance

    def __post_init__(self) -> None:
        require(self.steps >= 2, f"heun.steps must be at least 2, got {self.steps}")
        require(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"expected 0 < heun.sigma_min < heun.sigma_max < inf, got {self.sigma_min} and {self.sigma_max}",
        )
        require(self.rho > 0, f"heun.rho must be positive, got {self.rho}")
        for name in ("S_churn", "S_min", "S_noise", "guidance"):
            require(getattr(self, name) >= 0, f"heun.{name} must not be negative, got {getattr(self, name)}")
        require(
            self.S_max is None or self.S_max >= self.S_min,
            f"heun.S_max must not be below heun.S_min = {self.S_min}, got {self.S_max}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSettings:
    """The Euler sampler of LightningDiT (Yao et al. 2025, arXiv:2501.01423)."""

    points: int = 250  # of the time grid, one more than Euler steps
    shift: float = 0.3  # below 1 the steps near the noise are shorter
    guidance: float = 1.0  # 1 for none; published: 6.7 with start 0.125 (800 epochs), 10 with 0.10 (64 epochs)
    start: float = 0.0  # guidance begins at this time, 0 is noise and 1 is data
    channels: int | None = 3  # only the first so many latent channels are guided, as published; None for all

    def __post_init__(self) -> None:
        require(self.points >= 2, f"flow.points must be at least 2, got {self.points}")
        require(self.shift > 0, f"flow.shift must be positive, got {self.shift}")
        require(self.guidance >= 0, f"flow.guidance must not be negative, got {self.guidance}")
        require(0 <= self.start <= 1, f"flow.start must be in [0, 1], got {self.start}")
        require(self.channels is None or self.channels >= 1, f"flow.channels must be positive, got {self.channels}")
