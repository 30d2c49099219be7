"""Recipes of `train_dra.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import replace

from rp_dra.settings import AlignmentSettings, ClassifierSettings, TrainingSettings
from rp_models.settings import ComputeSettings, EdmSettings

from rp_experiments.recipes.dra_cifar import CIFAR
from rp_experiments.recipes.dra_imagenet import IMAGENET
from rp_experiments.recipes.dra_settings import EvaluationSettings as EvaluationSettings
from rp_experiments.recipes.dra_settings import SyntheticSettings
from rp_experiments.recipes.dra_settings import TrainDra as TrainDra


def digits() -> TrainDra:
    """The embedded 8x8 digits: all parts of the method at a size for two CPU cores and a few minutes.

    The budget is 0.15 (2.4 of 16 grey levels). No convention exists for these images: at this radius the standard
    classifier is as good as helpless, while people still read the perturbed digits, so the test separates the two.
    """
    eps = 0.15
    return TrainDra(
        data="digits",
        threads=1,  # a second one gains a quarter on these sizes, and loses far more when the machine is busy
        edm=EdmSettings(
            model_channels=24,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(4,),
            dropout=0.0,
            steps=700,
            batch_size=64,
            lr=3e-3,
            rampup_images=6_400,
            ema_half_life=20_000,
        ),
        synthetic=SyntheticSettings(images=1_500, steps=10, batch_size=250),
        classifier=ClassifierSettings(depth=10, width=1),
        training=TrainingSettings(
            epochs=24,
            batch_size=128,
            synthetic_fraction=0.5,
            eps=eps,
            step_size=eps / 4,
            crop_padding=1,
            flip=False,
            tau=0.98,
            validate_every=5,
            validation_steps=20,
        ),
        alignment=AlignmentSettings(hidden=256),
        evaluation=EvaluationSettings(eps=eps, batch_size=300, probes=0),
    )


def smoke() -> TrainDra:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = digits()
    return replace(
        base,
        edm=replace(base.edm, model_channels=8, steps=3, batch_size=16),
        synthetic=replace(base.synthetic, images=20, steps=2),
        classifier=replace(base.classifier, width=1),
        training=replace(base.training, epochs=2, batch_size=32, epoch_images=64, attack_steps=2, validation_steps=2),
        alignment=replace(base.alignment, hidden=16),
        evaluation=replace(base.evaluation, images=12, neighbours=3),
    )


def fashion_mnist() -> TrainDra:
    """Fashion-MNIST on two CPU cores in about twenty minutes: a fixed subset of the training images, a small network.

    The diffusion model is the checkpoint `edm-fashion-mnist` of `weights/`; `--edm None` trains one instead, for hours.
    The radius is the usual 0.1.
    """
    eps = 0.1
    return TrainDra(
        data="fashion-mnist",
        train_images=8_192,
        method=("at", "dm-at", "dm-at+dra"),
        threads=1,  # the evaluation takes the other core
        edm=_fashion_edm(),
        diffusion_model="edm-fashion-mnist",
        synthetic=SyntheticSettings(images=2_000, steps=10, batch_size=200),
        classifier=ClassifierSettings(depth=10, width=1),
        training=TrainingSettings(
            epochs=20,
            batch_size=128,
            epoch_images=2_048,
            synthetic_fraction=0.5,
            eps=eps,
            step_size=eps / 4,
            attack_steps=7,
            crop_padding=2,
            tau=0.98,
            validate_every=10,
            validation_steps=10,
        ),
        compute=ComputeSettings(channels_last=True),
        alignment=AlignmentSettings(hidden=256),
        evaluation=EvaluationSettings(eps=eps, images=200, batch_size=100, probes=0),
    )


def fashion_mnist_gpu() -> TrainDra:
    """Fashion-MNIST on one GPU: WRN-16-4, all training images, a million synthetic ones."""
    base = fashion_mnist()
    return replace(
        base,
        train_images=None,
        threads=None,
        synthetic=replace(base.synthetic, images=1_000_000, steps=18, batch_size=5_000),
        classifier=ClassifierSettings(depth=16, width=4),
        training=replace(
            base.training,
            epochs=100,
            batch_size=512,
            epoch_images=60_000,
            synthetic_fraction=0.7,
            attack_steps=10,
            tau=0.995,
            validation_steps=40,
        ),
        compute=ComputeSettings(precision="bf16", compile=True, channels_last=True),
        alignment=AlignmentSettings(precision="bf16"),
        evaluation=EvaluationSettings(eps=base.evaluation.eps, batch_size=1_000),
    )


def _fashion_edm() -> EdmSettings:
    """A diffusion model for 28x28 pixels, as small as is worth it."""
    return EdmSettings(
        model_channels=32,
        channel_mult=(1, 2, 2),
        num_blocks=1,
        attn_resolutions=(7,),
        dropout=0.05,
        steps=20_000,
        batch_size=128,
        lr=1e-3,
        rampup_images=64_000,
        ema_half_life=50_000,
    )


RECIPES: dict[str, Callable[[], TrainDra]] = {
    "digits": digits,
    "smoke": smoke,
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-gpu": fashion_mnist_gpu,
    **CIFAR,
    **IMAGENET,
}
