"""GDMP: the reverse diffusion, pulled at each step towards the attacked image at the same noise level.

Source: Wang et al. 2022, arXiv:2205.14969, and its public code, in which the pull shrinks with the batch.
"""

from typing import get_args

import torch
from rp_models.diffusion.discrete import DiscreteVPPrecond
from rp_models.diffusion.vp_schedule import DiscreteSchedule
from rp_models.settings import check_choice, require, within
from torch import Tensor, nn

from rp_purify.reverse import Draw, Place, ReverseDiffusion, Round, Seen
from rp_purify.settings import Per
from rp_purify.settings.rivals import Guidance, Variance
from rp_purify.ssim import ssim
from rp_purify.vp_steps import check_times, noised, posterior_steps


class GDMP(ReverseDiffusion):
    """Rounds of noise and guided ancestral steps; the defaults are those for CIFAR-10 with squared error.

    The pull in step i is var_i S_i times the gradient of the similarity between x_i and its reference, with
    S_i = 3 weight sigma_i / (2 ptb).

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        times: steps of a round.
        weight: factor on the pull of each image. The published guide_scale belongs to a mean over its batch of 100, so
            this is a hundredth of it.
        ptb: the perturbation that the pull is made for, in [0, 1] pixel units.
        guidance: the similarity: negative squared error, "ssim", or "none" of them.
        respacing: keep so many of the 1,000 time steps; None for all.
        beyond: noise to entry `times`, one beyond that of the first step, as published for CIFAR-10.
        noised_reference: the reference is the attacked image with noise of the same level; False, as published for
            ImageNet: without noise.
        variance: "large" (beta), "posterior", or "learned" with a network of guided-diffusion.
        per: "image", or "batch" for the published way: the similarity is a mean over the batch.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        times: int = 36,
        rounds: int = 4,
        weight: float = 60_000 / 100,
        ptb: float = 8 / 255,
        guidance: Guidance = "mse",
        respacing: int | None = None,
        beyond: bool = True,
        noised_reference: bool = True,
        variance: Variance = "large",
        per: Per = "image",
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(denoiser, seed=seed, fresh=fresh, grad=grad)
        check_times(times)
        require(rounds >= 1, f"rounds must be at least 1, got {rounds}")
        if variance == "learned" and not (isinstance(denoiser, DiscreteVPPrecond) and denoiser.learn_sigma):
            raise ValueError(
                "a learned variance needs a network of guided-diffusion that predicts one, got a "
                f"{type(denoiser).__name__}; leave out variance='learned'"
            )
        self.times, self.number, self.weight, self.ptb, self.guidance = times, rounds, weight, ptb, guidance
        self.respacing, self.beyond, self.noised_reference = respacing, beyond, noised_reference
        self.variance, self.per = variance, per
        within(self, weight="not negative", ptb="(0, 1)")
        check_choice("guidance", self.guidance, get_args(Guidance))
        check_choice("variance", self.variance, get_args(Variance))
        check_choice("per", self.per, get_args(Per))
        whole = DiscreteSchedule.linear()
        self._schedule = whole if respacing is None else whole.respaced(respacing)
        _ = self.rounds  # complains about more times than the table has

    @property
    def schedule(self) -> DiscreteSchedule:
        """The table of the process."""
        return self._schedule

    @property
    def rounds(self) -> list[Round]:
        """Start and steps of each round."""
        schedule = self.schedule
        start = noised(schedule, self.times if self.beyond else self.times - 1)
        return [Round(*start, posterior_steps(schedule, self.times, self.variance))] * self.number

    def shift(self, seen: Seen, place: Place, x: Tensor, draw: Draw) -> Tensor | float:
        """The pull on the step's mean, in units of the denoised image."""
        if self.guidance == "none":
            return 0.0
        schedule, index = self.schedule, self.times - 1 - place.step
        signal, std = noised(schedule, index)
        reference = x
        if self.noised_reference:
            reference = signal * x + std * draw(f"reference {place.step} of round {place.round}")
        pull = self.scale(seen.sigma) * self._gradient(signal * seen.y, reference)
        if self.per == "batch":
            pull = pull / len(x)
        return seen.variance * pull / float(schedule.posterior_mean[0][index])

    def scale(self, sigma: float) -> float:
        """S_i."""
        return 3 * self.weight * sigma / (2 * self.ptb)

    def _gradient(self, x: Tensor, reference: Tensor) -> Tensor:
        """The gradient of the similarity of each image in x."""
        if self.guidance == "mse":
            return 2 * (reference - x) / x[0].numel()
        graph = torch.is_grad_enabled() and (x.requires_grad or reference.requires_grad)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().clone().requires_grad_()
            (g,) = torch.autograd.grad(ssim(leaf, reference).sum(), leaf, create_graph=graph)
        return g
