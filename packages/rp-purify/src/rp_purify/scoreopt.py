"""ScoreOpt: Adam on a diffusion model's denoising loss, over the image or over its noisy version.

Source: Zhang et al. 2023, "Enhancing Adversarial Robustness via Score-Based Optimization", arXiv:2307.04333; Chen et
al. 2023, arXiv:2305.15241, whose likelihood maximisation is the first with a level for each image.
"""

from typing import Any, get_args

import torch
from rp_models import noise
from rp_models.settings import at_least, check_choice, require, within
from torch import Tensor, nn

from rp_purify.adam import adam
from rp_purify.gradient import clip_to_image, straight_through
from rp_purify.purifier import Purifier, frozen
from rp_purify.settings import Per


class _Optimised(Purifier):
    """What both forms share: Adam's settings, and the backward rules.

    "identity" is the published rule of BPDA; "one-shot", that of the published direct attack, has the derivative of
    one denoising at the (middle) level; "exact" differentiates every step of Adam, hence the network twice.
    """

    gradients = ("identity", "exact", "one-shot")
    level: float

    def __init__(self, denoiser: nn.Module, *, steps: int, lr: float, per: Per, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.steps, self.lr, self.per = denoiser, steps, lr, per
        at_least(self, steps=0)
        within(self, lr="positive")
        check_choice("per", self.per, get_args(Per))

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all steps, with a graph to `x` as `grad` says."""
        with frozen(self):
            if self.grad == "exact":
                return self.differentiable(x, seed=seed, index=index)
            purified = self.differentiable(x.detach(), seed=seed, index=index).detach()
            if self.grad == "identity" or not (x.requires_grad and torch.is_grad_enabled()):
                return purified
            noisy = 2 * x - 1 + self.level * _normal(x, seed, index, "noise 0")
            return straight_through(purified, (_denoise(self.model, noisy, self.level) + 1) / 2)


class LikelihoodMaximisation(_Optimised):
    """Moves images up a diffusion model's likelihood bound: Adam on E |D(x + sigma n; sigma) - x|^2 (ScoreOpt-O).

    The nearest relative of MaskDiT-Pure: the same kind of loss without masks, signs and ball.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        sigma: lowest and highest noise level; each image's is drawn uniformly in each step.
        lr: of Adam, in the units of [-1, 1].
        stay: weight of |x - x_0|^2 beside the loss, 0 in the published runs ("MSE").
        agree: weight of |D(x + sigma n) - D(x_0 + sigma n')|^2 beside it, 0 in the published runs ("SR").
        per: "image", or "batch" for the published way: one level for all images, and their mean loss, which Adam's
            eps is not blind to.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        steps: int = 5,
        sigma: tuple[float, float] = (0.4, 0.6),
        lr: float = 0.1,
        stay: float = 0.0,
        agree: float = 0.0,
        per: Per = "image",
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "identity",
    ) -> None:
        super().__init__(denoiser, steps=steps, lr=lr, per=per, seed=seed, fresh=fresh, grad=grad)
        require(0 < sigma[0] <= sigma[1], f"sigma must be two rising positive levels, got {sigma}")
        self.sigma, self.stay, self.agree = sigma, stay, agree
        within(self, stay="not negative", agree="not negative")

    @property
    def level(self) -> float:  # type: ignore[override]
        """The middle of the noise levels."""
        return sum(self.sigma) / 2

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all steps."""
        start = 2 * x - 1

        def objective(image: Tensor, step: int) -> Tensor:
            units = [_normal(x, seed, index, f"noise {step}")]
            if self.agree:
                units.append(_normal(x, seed, index, f"second noise {step}"))
            return self.loss(image, start, self.levels(step, x, seed=seed, index=index), *units)

        exact = self.grad == "exact"
        image = adam(self.model, start, objective, steps=self.steps, lr=self.lr, exact=exact)
        return clip_to_image((image + 1) / 2)

    def loss(self, x: Tensor, start: Tensor, sigma: Tensor, unit: Tensor, second: Tensor | None = None) -> Tensor:
        """The loss of each image in [-1, 1] (b,), or their mean per batch, with given levels (b,) and unit normals."""
        level = sigma.view(-1, 1, 1, 1)
        denoised = self.model(x + level * unit, sigma)
        error = (denoised - x).square()
        if self.stay:
            error = error + self.stay * (x - start).square()
        if second is not None:
            error = error + self.agree * (denoised - self.model(start + level * second, sigma)).square()
        return error.mean() if self.per == "batch" else error.mean(dim=(1, 2, 3))

    def levels(self, step: int, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The noise level of each image (b,) in one step."""
        low, high = self.sigma
        who = torch.zeros_like(index) if self.per == "batch" else index
        share = noise.uniform((), seed=seed, purpose=f"level {step}", index=who, dtype=x.dtype)
        return low + (high - low) * share


class ScoreOptN(_Optimised):
    """Noises images once and optimises the noisy ones v: Adam on |(v - D(v; sigma)) / sigma - n|^2, then D(v; sigma).

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        sigma: the noise level.
        lr: of Adam, in the units of [-1, 1].
        per: "image", or "batch" for the published mean over the batch, which Adam's eps is not blind to.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        steps: int = 20,
        sigma: float = 0.5,
        lr: float = 0.1,
        per: Per = "image",
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "identity",
    ) -> None:
        super().__init__(denoiser, steps=steps, lr=lr, per=per, seed=seed, fresh=fresh, grad=grad)
        self.sigma = sigma
        within(self, sigma="positive")

    @property
    def level(self) -> float:  # type: ignore[override]
        """The noise level."""
        return self.sigma

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all steps."""
        return self.from_noise(x, _normal(x, seed, index, "noise 0"))

    def from_noise(self, x: Tensor, unit: Tensor) -> Tensor:
        """The images after all steps, with given unit normals."""

        def objective(noisy: Tensor, step: int) -> Tensor:
            predicted = (noisy - _denoise(self.model, noisy, self.sigma)) / self.sigma
            error = (predicted - unit).square()
            return error.mean() if self.per == "batch" else error.mean(dim=(1, 2, 3))

        start, exact = 2 * x - 1 + self.sigma * unit, self.grad == "exact"
        noisy = adam(self.model, start, objective, steps=self.steps, lr=self.lr, exact=exact)
        return clip_to_image((_denoise(self.model, noisy, self.sigma) + 1) / 2)


def _denoise(model: nn.Module, noisy: Tensor, sigma: float) -> Tensor:
    """D at one level."""
    level = torch.full((len(noisy),), sigma, device=noisy.device, dtype=noisy.dtype)
    denoised: Tensor = model(noisy, level)
    return denoised.to(noisy.dtype)


def _normal(x: Tensor, seed: int, index: Tensor, purpose: str) -> Tensor:
    return noise.normal(x.shape[1:], seed=seed, purpose=purpose, index=index, dtype=x.dtype)
