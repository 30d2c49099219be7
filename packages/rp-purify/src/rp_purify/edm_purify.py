"""Noise of one level and EDM's stochastic sampler back from there: how ADDT purifies with its tuned EDM network.

Source: Liu et al. 2025, arXiv:2404.14309, and its public code; Karras et al. 2022, arXiv:2206.00364, Algorithm 2.
"""

import itertools
import math

from rp_models.diffusion.heun import noise_levels
from rp_models.settings import within
from torch import nn

from rp_purify.reverse import ChurnedHeun, ReverseDiffusion, Round


class EDMPurify(ReverseDiffusion):
    """Noises images to level `sigma` and takes Heun steps back, each from a level raised by fresh noise.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        sigma: the start's noise level in the units of [-1, 1].
        steps: Heun steps, two calls each but the last.
        churn: S_churn, the noise that is added over all steps; 0 for the deterministic sampler.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        sigma: float = 0.5,
        steps: int = 50,
        churn: float = 6.0,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(denoiser, seed=seed, fresh=fresh, grad=grad)
        self.sigma, self.steps, self.churn = sigma, steps, churn
        within(self, churn="not negative")
        _ = self.rounds  # complains about levels that do not fall

    @property
    def rounds(self) -> list[Round]:
        """Start and steps."""
        lowest = max(0.002, float(getattr(self.model, "sigma_min", 0.0)))
        levels = noise_levels(self.steps, sigma_min=lowest, sigma_max=self.sigma)
        gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
        return [Round(1.0, self.sigma, [ChurnedHeun(*pair, gamma) for pair in itertools.pairwise(levels)])]
