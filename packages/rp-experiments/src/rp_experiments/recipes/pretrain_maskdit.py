"""Recipes of `pretrain.py maskdit`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rp_models.settings import ComputeSettings, MaskDitSettings

from rp_experiments.recipes.pretrain_settings import PretrainMaskDit


def digits() -> PretrainMaskDit:
    """The digits in some minutes on a CPU core: what MaskDiT-Pure uses there."""
    return PretrainMaskDit(
        half=True,
        maskdit=MaskDitSettings(
            network="maskdit-digits",
            steps=5000,
            unmasked_steps=0,
            batch_size=128,
            lr=2e-3,
            warmup_steps=200,
            ema_half_life=20_000,
        ),
    )


def fashion_mnist() -> PretrainMaskDit:
    """Fashion-MNIST in fifteen minutes on a CPU core, class-conditional: `maskdit-fashion-mnist` of `weights/`."""
    return PretrainMaskDit(
        data="fashion-mnist",
        half=True,
        maskdit=MaskDitSettings(
            network="maskdit-fashion-mnist",
            num_classes=10,
            steps=2000,
            unmasked_steps=500,
            batch_size=64,
            lr=1.5e-3,
            unmasked_lr=5e-4,
            warmup_steps=200,
            ema_half_life=30_000,
        ),
    )


def fashion_mnist_gpu() -> PretrainMaskDit:
    """Fashion-MNIST for one GPU: 20 million images, the last tenth without masks."""
    base = fashion_mnist()
    maskdit = replace(
        base.maskdit,
        steps=80_000,
        unmasked_steps=8_000,
        batch_size=256,
        lr=1e-3,
        unmasked_lr=2e-4,
        warmup_steps=2_000,
        ema_half_life=500_000,
    )
    return replace(base, validate_every=4_000, compute=ComputeSettings(precision="bf16"), maskdit=maskdit)


def small_images(data: str, *, num_classes: int) -> PretrainMaskDit:
    """CIFAR and SVHN on pixels, for MaskDiT-Pure: its network, with the published training of MaskDiT.

    The paper gives the network and the mask rate; batches, rates and steps are those of MaskDiT on ImageNet.

    Source: Appendix L of the MAE-Pure paper; Zheng et al. 2024, arXiv:2306.09305, Section 5.1.
    """
    return PretrainMaskDit(
        data=data,
        compute=ComputeSettings(precision="bf16"),
        maskdit=MaskDitSettings(
            network="maskdit-cifar10",
            num_classes=num_classes,
            steps=400_000,
            batch_size=1024,
            lr=1e-4,
            ema_half_life=7_000_000,
        ),
    )


def imagenet() -> PretrainMaskDit:
    """ImageNet on 256-pixel images in patches of 16, as for MaskDiT-Pure; XL, for many GPUs.

    Source: Appendix L of the MAE-Pure paper; all else, with the last steps unmasked, from Zheng et al. 2024,
    arXiv:2306.09305, which trains on latents.
    """
    return PretrainMaskDit(
        data="imagenet-256",
        half=True,
        compute=ComputeSettings(precision="bf16"),
        maskdit=MaskDitSettings(
            network="maskdit",
            sizes={"image_size": 256, "in_channels": 3, "patch_size": 16},
            num_classes=1000,
            steps=2_100_000,
            unmasked_steps=100_000,
            batch_size=1024,
            lr=1e-4,
            unmasked_lr=5e-5,
            ema_half_life=7_000_000,
        ),
    )


def smoke() -> PretrainMaskDit:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = digits()
    small = replace(base.maskdit, steps=4, unmasked_steps=2, batch_size=16, warmup_steps=1)
    return replace(base, sampler_steps=2, maskdit=small)


RECIPES: dict[str, Callable[[], PretrainMaskDit]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-gpu": fashion_mnist_gpu,
    "cifar10": partial(small_images, "cifar10", num_classes=10),
    "cifar100": partial(small_images, "cifar100", num_classes=100),
    "svhn": partial(small_images, "svhn", num_classes=10),
    "imagenet": imagenet,
    "smoke": smoke,
}
