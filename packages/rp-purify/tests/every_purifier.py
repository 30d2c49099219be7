"""A maker of every purifier, in every form that has steps of its own, around tiny networks; options go to the purifier.

The networks are curved, so that a second derivative that is left out shows.
"""

from collections.abc import Callable
from typing import Any

import torch
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.networks.vae import AutoencoderKL
from rp_purify import (
    DiffPure,
    GaussianNoise,
    LikelihoodMaximisation,
    MAEPure,
    MAEReconstruction,
    MaskDiTPure,
    NoPurification,
    OneStepDenoise,
    Purifier,
)
from rp_purify.adp import ADP
from rp_purify.coup import COUP
from rp_purify.ddim_purify import DDIMPurify
from rp_purify.edm_purify import EDMPurify
from rp_purify.gdmp import GDMP
from rp_purify.gradual import GradualPurify
from rp_purify.latent_maskdit import LatentMaskDiTPure, LatentOneStep, LatentSteps
from rp_purify.nim import NIMReconstruction
from rp_purify.random_steps import RandomSteps
from rp_purify.resized import Resized
from rp_purify.scoreopt import ScoreOptN
from rp_purify.soap import SOAP, LabelConsistency
from torch import Tensor, nn

from .models import TinyClassifier, randomised, tiny_mae, tiny_maskdit


class BentDenoiser(nn.Module):
    """A denoiser with a curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = randomised(nn.Conv2d(1, 1, 3, padding=1))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1)
        return x / (1 + sigma**2) + 0.3 * sigma * self.inner(x).tanh()


def latent_networks() -> tuple[MaskDiT, AutoencoderKL]:
    vae = AutoencoderKL(in_channels=1, width=32, multipliers=(1, 1), blocks=1, attention=(False, False), z_channels=4)
    sizes = {"image_size": 4, "patch_size": 2, "in_channels": 4, "width": 16, "depth": 1, "heads": 2}
    decoder = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    return randomised(MaskDiT(**sizes, **decoder, num_classes=0)), randomised(vae)  # type: ignore[return-value, arg-type]


def soap(**options: object) -> SOAP:
    classifier = TinyClassifier()
    own: dict[str, Any] = {"steps": 2, "levels": 3, **options}
    return SOAP(classifier, LabelConsistency(classifier, margin=1), **own)


def diffpure(solver: str, times: int = 4, **options: Any) -> DiffPure:
    return DiffPure(BentDenoiser(), times=times, solver=solver, **options)  # type: ignore[arg-type]


def descent_of_maskdit(**options: Any) -> MaskDiTPure:
    return MaskDiTPure(tiny_maskdit(), steps=2, sigma=[0.2, 0.3, 0.4], schedule="grid", **options)


MAKE: dict[str, Callable[..., Purifier]] = {
    "none": lambda **o: NoPurification(**o),
    "noise": lambda **o: GaussianNoise(0.1, **o),
    "random-steps": lambda **o: RandomSteps(step_size=0.05, steps=3, eta=0.08, **o),
    "mae-pure": lambda **o: MAEPure(tiny_mae(), steps=2, masks_per_step=2, complementary=True, **o),
    "maskdit-pure": descent_of_maskdit,
    "mae-reconstruction": lambda **o: MAEReconstruction(tiny_mae(), std=0.1, **o),
    "atop": lambda **o: MAEReconstruction(tiny_mae(), mask_rate=0.25, std=0.25, keep_visible=True, **o),
    "nim": lambda **o: NIMReconstruction(tiny_mae(), **o),
    "dmae": lambda **o: NIMReconstruction(tiny_mae(norm_pix=True), mask_rate=0.75, **o),
    "denoise": lambda **o: OneStepDenoise(BentDenoiser(), **o),
    "diffpure": lambda **o: DiffPure(BentDenoiser(), times=(20, 30), steps=2, **o),
    "ode": lambda **o: DiffPure(BentDenoiser(), times=(40, 20), steps=3, solver="ode", **o),
    "euler-maruyama": lambda **o: diffpure("euler-maruyama", **o),
    "ddpm": lambda **o: diffpure("ddpm", **o),
    "predictor-corrector": lambda **o: diffpure("predictor-corrector", **o),
    "gradual": lambda **o: GradualPurify(BentDenoiser(), times=(20, 60), steps=(2, 3), surrogate=((60, 1),), **o),
    "adbm": lambda **o: DDIMPurify(BentDenoiser(), steps=3, clip_denoised=False, stack=2, **o),
    "edm-purify": lambda **o: EDMPurify(BentDenoiser(), steps=3, **o),
    "coup": lambda **o: COUP(BentDenoiser(), TinyClassifier(), times=4, weight=20.0, **o),
    "gdmp": lambda **o: GDMP(BentDenoiser(), times=3, rounds=2, **o),
    "gdmp-ssim": lambda **o: GDMP(BentDenoiser(), times=3, rounds=1, guidance="ssim", **o),
    "likelihood": lambda **o: LikelihoodMaximisation(BentDenoiser(), steps=3, stay=0.1, agree=0.1, **o),
    "scoreopt-n": lambda **o: ScoreOptN(BentDenoiser(), steps=3, **o),
    "adp": lambda **o: ADP(BentDenoiser(), steps=3, sigma=0.05, **o),
    "soap": lambda **o: soap(**o),
    "resized": lambda **o: Resized(diffpure("euler-maruyama", times=3, **o), 12),
    "latent-maskdit-pure": lambda **o: LatentMaskDiTPure(*latent_networks(), steps=2, chunk=3, **o),
    "latent-steps": lambda **o: LatentSteps(*latent_networks(), steps=2, eta=0.1, **o),
    "latent-one-step": lambda **o: LatentOneStep(*latent_networks(), **o),
}
FIXED = ("none", "soap")  # nothing is random in them, so they take no seed
SIGNS = ("mae-pure", "maskdit-pure", "latent-maskdit-pure", "latent-steps", "soap")
"""Whose steps are signs, which have no derivative: what their backward rules are instead is tested with them."""

# of so many steps, with the exact rule, and how many images of a step it may keep
OF_LENGTH: dict[str, tuple[Callable[[int], Purifier], int]] = {
    "diffpure": (lambda n: DiffPure(BentDenoiser(), times=50, steps=n), 1),
    "ode": (lambda n: DiffPure(BentDenoiser(), times=50, steps=n, solver="ode"), 1),
    "euler-maruyama": (lambda n: diffpure("euler-maruyama", n), 1),
    "ddpm": (lambda n: diffpure("ddpm", n), 1),
    "predictor-corrector": (lambda n: diffpure("predictor-corrector", n), 2),  # two steps at each time
    "gradual": (lambda n: GradualPurify(BentDenoiser(), times=(60,), steps=(n,)), 1),
    "adbm": (lambda n: DDIMPurify(BentDenoiser(), steps=n), 1),
    "edm-purify": (lambda n: EDMPurify(BentDenoiser(), steps=n), 1),
    "coup": (lambda n: COUP(BentDenoiser(), TinyClassifier(), times=n), 1),
    "gdmp": (lambda n: GDMP(BentDenoiser(), times=n, rounds=1), 1),
    "gdmp-ssim": (lambda n: GDMP(BentDenoiser(), times=n, rounds=1, guidance="ssim"), 1),
    "likelihood": (lambda n: LikelihoodMaximisation(BentDenoiser(), steps=n, grad="exact"), 3),  # and Adam's two
    "scoreopt-n": (lambda n: ScoreOptN(BentDenoiser(), steps=n, grad="exact"), 3),
    "adp": (lambda n: ADP(BentDenoiser(), steps=n), 1),
}


def saved_bytes(purifier: Purifier, x: Tensor) -> int:
    """What the forward pass keeps for the backward one."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        purified = purifier(x, seed=0)
    assert purified.requires_grad
    return sum(kept.values())
