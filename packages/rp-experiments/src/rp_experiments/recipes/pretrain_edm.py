"""Recipes of `pretrain.py edm`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rp_models.settings import ComputeSettings, EdmSettings

from rp_experiments.recipes.dra import digits as dra_digits
from rp_experiments.recipes.pretrain_settings import PretrainEdm


def digits() -> PretrainEdm:
    """The diffusion model of `train_dra.py` on the digits."""
    return PretrainEdm(edm=dra_digits().edm)


def digits_unconditional() -> PretrainEdm:
    """The digits without classes: what DiffPure and likelihood maximisation use there."""
    base = digits()
    return replace(base, half=True, edm=replace(base.edm, conditional=False))


def fashion_mnist() -> PretrainEdm:
    """Fashion-MNIST in about twenty minutes on a CPU core: the checkpoint `edm-fashion-mnist` of `weights/`."""
    return PretrainEdm(
        data="fashion-mnist",
        half=True,
        edm=EdmSettings(
            model_channels=32,
            channel_mult=(1, 2, 2),
            num_blocks=1,
            attn_resolutions=(7,),
            dropout=0.0,
            steps=1800,
            batch_size=64,
            lr=2e-3,
            rampup_images=12_800,
            ema_half_life=20_000,
        ),
    )


def fashion_mnist_gpu() -> PretrainEdm:
    """Fashion-MNIST for one GPU: 13 million images through a network of 7 million parameters."""
    return PretrainEdm(
        data="fashion-mnist",
        half=True,
        validate_every=2_500,
        compute=ComputeSettings(precision="bf16", channels_last=True),
        edm=EdmSettings(
            model_channels=64,
            channel_mult=(1, 2, 2),
            num_blocks=2,
            attn_resolutions=(7,),
            dropout=0.1,
            steps=50_000,
            batch_size=256,
            lr=1e-3,
            rampup_images=1_000_000,
            ema_half_life=500_000,
        ),
    )


def small_images(data: str) -> PretrainEdm:
    """CIFAR and SVHN at 32 pixels with the settings of the published CIFAR-10 training: 200 million images.

    Published with half-precision networks; here bf16.

    Source: Karras et al. 2022, arXiv:2206.00364, Table 7; for CIFAR-100 and SVHN, Wang et al. 2023, arXiv:2302.04638.
    """
    return PretrainEdm(
        data=data,
        compute=ComputeSettings(precision="bf16", channels_last=True),
        edm=EdmSettings(
            model_channels=128,
            channel_mult=(2, 2, 2),
            num_blocks=4,
            attn_resolutions=(16,),
            dropout=0.13,
            augment=0.12,
            steps=200_000_000 // 512,
            batch_size=512,
            lr=1e-3,
            rampup_images=10_000_000,
            ema_half_life=500_000,
        ),
    )


def smoke() -> PretrainEdm:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = digits()
    return replace(base, sampler_steps=2, edm=replace(base.edm, model_channels=8, steps=4, batch_size=16))


RECIPES: dict[str, Callable[[], PretrainEdm]] = {
    "digits": digits,
    "digits-unconditional": digits_unconditional,
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-gpu": fashion_mnist_gpu,
    "cifar10": partial(small_images, "cifar10"),
    "cifar100": partial(small_images, "cifar100"),
    "svhn": partial(small_images, "svhn"),
    "smoke": smoke,
}
