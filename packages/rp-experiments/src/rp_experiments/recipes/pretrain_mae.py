"""Recipes of `pretrain.py mae`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rp_models.settings import ComputeSettings, MaeSettings

from rp_experiments.recipes.pretrain_settings import PretrainMae


def digits() -> PretrainMae:
    """The checkpoint `mae-digits` that comes with rp-models (there with `--half`): two minutes on a CPU core."""
    return PretrainMae(
        mae=MaeSettings(network="mae-digits", mask_rate=0.5, steps=4000, batch_size=128, lr=2e-3, warmup_steps=200)
    )


def fashion_mnist() -> PretrainMae:
    """Fashion-MNIST in under ten minutes on a CPU core: the checkpoint `mae-fashion-mnist` of `weights/`."""
    return PretrainMae(
        data="fashion-mnist",
        half=True,
        mae=MaeSettings(
            network="mae-fashion-mnist", mask_rate=0.6, steps=2500, batch_size=64, lr=1.5e-3, warmup_steps=200
        ),
    )


def fashion_mnist_gpu() -> PretrainMae:
    """Fashion-MNIST for one GPU: 200 epochs of all images."""
    base = fashion_mnist()
    mae = replace(base.mae, steps=46_000, batch_size=256, lr=1e-3, warmup_steps=2_300, ema_half_life=100_000)
    return replace(base, validate_every=2_300, compute=ComputeSettings(precision="bf16"), mae=mae)


def small_images(data: str, train_images: int, *, flip: bool) -> PretrainMae:
    """CIFAR and SVHN as for MAE-Pure: 2,000 epochs at 1e-3, then 1,000 at 1.5e-4, in batches of 64.

    The paper names epochs, rates and batch size; warm-up, both cosines, mask rate and decay are those of the masked
    autoencoder's public code. The crops, which that code makes in 224 pixels, are left out at 32.

    Source: Appendix L of the MAE-Pure paper; He et al. 2022, arXiv:2111.06377, Table 8.
    """
    epoch = train_images // 64 + 1
    return PretrainMae(
        data=data,
        mae=MaeSettings(
            network="mae-vit-base-p4-32",
            steps=3_000 * epoch,
            second_steps=1_000 * epoch,
            batch_size=64,
            lr=1e-3,
            second_lr=1.5e-4,
            warmup_steps=40 * epoch,
            flip=flip,
        ),
    )


def imagenet() -> PretrainMae:
    """ImageNet at 224 pixels with ViT-L: 800 epochs in batches of 4,096; for many GPUs.

    Source: He et al. 2022, arXiv:2111.06377, Table 8, and the command that they publish (standardised patches).
    """
    epoch = 1_271_167 // 4096 + 1
    return PretrainMae(
        data="imagenet",
        half=True,
        compute=ComputeSettings(precision="bf16"),
        mae=MaeSettings(
            network="mae-vit-large",
            sizes={"norm_pix": True},
            mask_rate=0.75,
            steps=800 * epoch,
            batch_size=4096,
            lr=1.5e-4 * 4096 / 256,
            warmup_steps=40 * epoch,
            crop_scale=0.2,
            flip=True,
        ),
    )


def smoke() -> PretrainMae:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = digits()
    return replace(base, mae=replace(base.mae, steps=4, batch_size=16, warmup_steps=1))


RECIPES: dict[str, Callable[[], PretrainMae]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-gpu": fashion_mnist_gpu,
    "cifar10": partial(small_images, "cifar10", 48_976, flip=True),
    "cifar100": partial(small_images, "cifar100", 48_976, flip=True),
    "svhn": partial(small_images, "svhn", 72_233, flip=False),
    "imagenet": imagenet,
    "smoke": smoke,
}
