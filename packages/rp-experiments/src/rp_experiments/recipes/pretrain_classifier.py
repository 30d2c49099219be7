"""Recipes of `pretrain.py classifier`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rp_models.settings import ComputeSettings, StandardSettings

from rp_experiments.recipes.pretrain_settings import PretrainClassifier


def digits() -> PretrainClassifier:
    """WRN-10-1 on the digits: some seconds on a CPU core, 99% of the validation images right."""
    return PretrainClassifier(
        standard=StandardSettings(
            network="dm-wide-resnet",
            sizes={"depth": 10, "width": 1},
            steps=400,
            batch_size=64,
            crop_padding=1,
            flip=False,
            ema_half_life=1_000,
        )
    )


def fashion_mnist() -> PretrainClassifier:
    """WRN-16-1 on Fashion-MNIST, three epochs: about ten minutes on a CPU core."""
    return PretrainClassifier(
        data="fashion-mnist",
        half=True,
        standard=StandardSettings(
            network="dm-wide-resnet",
            sizes={"depth": 16, "width": 1},
            steps=1500,
            batch_size=128,
            warmup_steps=200,
            crop_padding=2,
            ema_half_life=10_000,
        ),
    )


def fashion_mnist_gpu() -> PretrainClassifier:
    """WRN-16-4 on Fashion-MNIST for one GPU: 60 epochs."""
    base = fashion_mnist()
    standard = replace(base.standard, network="wrn-16-4-swish", sizes={}, steps=27_600, warmup_steps=460)
    compute = ComputeSettings(precision="bf16", channels_last=True)
    return replace(base, validate_every=460, compute=compute, standard=standard)


def small_images(data: str, train_images: int, *, flip: bool, rotation_degrees: float = 0.0) -> PretrainClassifier:
    """WRN-28-10 on CIFAR or SVHN: 200 epochs in batches of 128; scores synthetic images as in DM-AT.

    Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146 (batch, epochs, decay); DM-AT's network and augmentation,
    Wang et al. 2023, arXiv:2302.04638; a cosine instead of steps.
    """
    return PretrainClassifier(
        data=data,
        validate_every=train_images // 128 + 1,
        compute=ComputeSettings(precision="bf16", channels_last=True),
        standard=StandardSettings(
            network="wrn-28-10-swish",
            steps=200 * (train_images // 128 + 1),
            batch_size=128,
            crop_padding=4 if flip else 0,
            flip=flip,
            rotation_degrees=rotation_degrees,
        ),
    )


def imagenet() -> PretrainClassifier:
    """ResNet-50 on ImageNet at 224 pixels: 90 epochs in batches of 1,024; needs the extra `timm`.

    Source: Goyal et al. 2017, arXiv:1706.02677 (rate 0.1 for each 256 images, five epochs of warm-up), with a cosine.
    """
    epoch = 1_271_167 // 1024 + 1
    return PretrainClassifier(
        data="imagenet",
        validate_every=epoch,
        compute=ComputeSettings(precision="bf16", channels_last=True),
        standard=StandardSettings(
            network="resnet50",
            steps=90 * epoch,
            batch_size=1024,
            lr=0.4,
            warmup_steps=5 * epoch,
            weight_decay=1e-4,
            crop_padding=0,
            crop_scale=0.08,
        ),
    )


def smoke() -> PretrainClassifier:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = digits()
    return replace(base, validate_every=2, standard=replace(base.standard, steps=4, batch_size=16))


RECIPES: dict[str, Callable[[], PretrainClassifier]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-gpu": fashion_mnist_gpu,
    "cifar10": partial(small_images, "cifar10", 48_976, flip=True),
    "cifar100": partial(small_images, "cifar100", 48_976, flip=True, rotation_degrees=15.0),
    "svhn": partial(small_images, "svhn", 72_233, flip=False),
    "imagenet": imagenet,
    "smoke": smoke,
}
