"""Training losses of EDM and of the two models it generalises (Table 1 of Karras et al. 2022, arXiv:2206.00364).

A loss is a set of constants. Its random numbers are arguments: `rnd` decides each image's noise level, `noise` is the
unit noise; `draw` makes both from a seed and image indices. The result is not reduced: the objective of the paper is
`loss(...).sum() / batch`, a sum over pixels and a mean over images.

Axes: b batch, c channels, h w image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rp_models import noise as randomness
from rp_models.diffusion.precondition import vp_sigma


class DenoisingLoss:
    """The weighted squared error of a denoiser; a subclass says how noise levels are drawn and weighted."""

    def __call__(
        self,
        denoiser: Callable[..., Tensor],
        images: Tensor,
        labels: Tensor | None = None,
        *,
        rnd: Tensor,
        noise: Tensor,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of each pixel.

        Args:
            denoiser: `denoiser(x, sigma, class_labels)`, and `augment_labels=` if they are given.
            images: clean images (b, c, h, w) in [-1, 1].
            labels: class labels as the denoiser takes them.
            rnd: the draw behind each image's noise level, (b,) or (b, 1, 1, 1), distributed as `draw` does.
            noise: unit normal noise (b, c, h, w).
            augment_labels: how the images were augmented, (b, augment_dim).

        Returns:
            Tensor (b, c, h, w).

        Raises:
            ValueError: if the draws do not fit the images.
        """
        if noise.shape != images.shape:
            raise ValueError(f"noise must have the images' shape {tuple(images.shape)}, got {tuple(noise.shape)}")
        if rnd.numel() != len(images):
            raise ValueError(f"rnd must hold one value for each of the {len(images)} images, got {tuple(rnd.shape)}")
        sigma = self.sigma(rnd.reshape(-1, 1, 1, 1))
        extra: dict[str, Any] = {} if augment_labels is None else {"augment_labels": augment_labels}
        denoised = denoiser(images + sigma * noise, sigma, labels, **extra)
        return self.weight(sigma) * (denoised - images).square()

    def draw(self, shape: Sequence[int], *, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """The random numbers of one batch, `(rnd, noise)` of shapes (b,) and (b, *shape), by (seed, image index)."""
        unit_noise = randomness.normal(shape, seed=seed, purpose="edm noise", index=index)
        return self._draw_rnd(seed, index), unit_noise

    def sigma(self, rnd: Tensor) -> Tensor:
        """The noise level of each draw."""
        raise NotImplementedError

    def weight(self, sigma: Tensor) -> Tensor:
        """The factor on the squared error at each noise level."""
        raise NotImplementedError

    def _draw_rnd(self, seed: int, index: Tensor) -> Tensor:
        return randomness.uniform((), seed=seed, purpose="edm sigma", index=index)


@dataclass(frozen=True)
class EDMLoss(DenoisingLoss):
    """Log-normal noise levels, weighted to an equal loss at all levels before training; `rnd` is normal."""

    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float = 0.5

    def sigma(self, rnd: Tensor) -> Tensor:
        """The noise level of each normal draw."""
        return (rnd * self.P_std + self.P_mean).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        """The factor on the squared error at each noise level."""
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()

    def _draw_rnd(self, seed: int, index: Tensor) -> Tensor:
        return randomness.normal((), seed=seed, purpose="edm sigma", index=index)


@dataclass(frozen=True)
class VPLoss(DenoisingLoss):
    """Noise levels of the variance-preserving schedule at uniform times; `rnd` is uniform in [0, 1)."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    epsilon_t: float = 1e-5

    def sigma(self, rnd: Tensor) -> Tensor:
        """The noise level of each uniform draw."""
        return vp_sigma(1 + rnd * (self.epsilon_t - 1), self.beta_d, self.beta_min)

    def weight(self, sigma: Tensor) -> Tensor:
        """The factor on the squared error at each noise level."""
        return 1 / sigma.square()


@dataclass(frozen=True)
class VELoss(DenoisingLoss):
    """Log-uniform noise levels of the variance-exploding model; `rnd` is uniform in [0, 1)."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def sigma(self, rnd: Tensor) -> Tensor:
        """The noise level of each uniform draw."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** rnd

    def weight(self, sigma: Tensor) -> Tensor:
        """The factor on the squared error at each noise level."""
        return 1 / sigma.square()
