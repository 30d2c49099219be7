"""Settings of the samplers, each an experiment's hyper-parameters; importing this module does not import torch."""

import math
from dataclasses import dataclass

from rp_models.settings import at_least, require, within


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
        at_least(self, "heun.", steps=2, S_churn=0, S_min=0, S_noise=0, guidance=0)
        within(self, "heun.", rho="positive")
        require(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"expected 0 < heun.sigma_min < heun.sigma_max < inf, got {self.sigma_min} and {self.sigma_max}",
        )
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
        at_least(self, "flow.", points=2, guidance=0)
        within(self, "flow.", shift="positive", start="[0, 1]")
        require(self.channels is None or self.channels >= 1, f"flow.channels must be positive, got {self.channels}")
