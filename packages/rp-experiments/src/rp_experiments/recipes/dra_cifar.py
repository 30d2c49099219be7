"""Recipes for CIFAR-10 and CIFAR-100: one for each setting of the DRA paper's Tables 1 and 2, for one or more GPUs.

The method is chosen by `--method`; the recipe is the rest of a table's row. Files that have to be at hand:
`--data-root` (the official archives), `--synthetic.paths` (the sets that Wang et al. 2023 released), `--edm` (the
official diffusion model after `convert.py nvlabs`).

Sources: Section 5.1 and Appendix B of the DRA paper; Wang et al. 2023, arXiv:2302.04638 and their published trainer;
for the vision transformer Wu et al. 2025. What the papers leave open is marked so.
"""

from collections.abc import Callable
from dataclasses import replace

from rp_dra.settings import AlignmentSettings, ClassifierSettings, TrainingSettings
from rp_models.settings import ComputeSettings

from rp_experiments.recipes.dra_settings import SyntheticSettings, TrainDra

_FAST = ComputeSettings(precision="bf16", compile=True, channels_last=True)  # open: the published code is in float32
_EDM = {"cifar10": "edm-cifar10-32x32-cond-vp", "cifar100": "edm-cifar100-32x32-cond-vp"}


def cifar10_wrn_28_10_1m() -> TrainDra:
    """DM-AT's setting with one million synthetic images: the base of the others."""
    return TrainDra(
        data="cifar10",
        method=("dm-at", "dm-at+dra"),
        diffusion_model=_EDM["cifar10"],
        synthetic=SyntheticSettings(paths=("cifar10/1m.npz",)),
        classifier=ClassifierSettings(network="wrn-28-10-swish"),
        training=TrainingSettings(epoch_images=50_000),
        compute=_FAST,
        alignment=AlignmentSettings(precision="bf16"),
    )


def cifar10_wrn_28_10_1m_1024() -> TrainDra:
    """The same with twice the batch and twice the epochs."""
    return _longer(cifar10_wrn_28_10_1m(), batch_size=1024, epochs=800)


def cifar10_wrn_28_10_20m() -> TrainDra:
    """Twenty million synthetic images; with more than one million, four in five images of a batch are synthetic.

    With --method dm-at+ikl the objective is that of Cui et al. 2024, with the constants of their code.
    """
    base = _longer(cifar10_wrn_28_10_1m(), batch_size=2048, epochs=2400)
    return _more_images(base, "cifar10/20m_part*.npz")


def cifar10_wrn_70_16_50m() -> TrainDra:
    """Fifty million synthetic images and the largest network."""
    base = _longer(cifar10_wrn_28_10_1m(), batch_size=1024, epochs=2000)
    base = replace(base, classifier=ClassifierSettings(network="wrn-70-16-swish"))
    return _more_images(base, "cifar10/50m_part*.npz")


def cifar10_wrn_34_10() -> TrainDra:
    """No synthetic images: AT, AT+DRA, AT+IKL and AT+ADR, batches of 128, 200 epochs.

    The rows of IKL and ADR come from their own papers, whose optimisers differ; here all methods share one.
    Open, and so chosen: SiLU as in the other wide ResNets.
    """
    base = _longer(cifar10_wrn_28_10_1m(), batch_size=128, epochs=200)
    return replace(
        base,
        method=("at", "at+dra"),
        synthetic=SyntheticSettings(images=0),
        classifier=ClassifierSettings(network="wrn-34-10-swish"),
    )


def cifar10_vit_b2_20m() -> TrainDra:
    """ViT-B/2 by Lion, twenty million synthetic images."""
    base = _more_images(cifar10_wrn_28_10_1m(), "cifar10/20m_part*.npz")
    return _vit(base, epochs=500)


def cifar10_vit_b2_50m() -> TrainDra:
    """ViT-B/2 by Lion, fifty million synthetic images."""
    base = _more_images(cifar10_wrn_28_10_1m(), "cifar10/50m_part*.npz")
    return _vit(base, epochs=2000)


def cifar100_wrn_28_10_1m() -> TrainDra:
    """CIFAR-100 with one million synthetic images; DM-AT rotates its images too."""
    base = cifar10_wrn_28_10_1m()
    return replace(
        base,
        data="cifar100",
        diffusion_model=_EDM["cifar100"],
        synthetic=SyntheticSettings(paths=("cifar100/1m.npz",)),
        classifier=ClassifierSettings(network="wrn-28-10-swish-cifar100"),
        training=replace(base.training, rotation_degrees=15.0),
    )


def cifar100_vit_b2_1m() -> TrainDra:
    """ViT-B/2 on CIFAR-100; the number of epochs is open."""
    return _vit(cifar100_wrn_28_10_1m(), epochs=500)


def _longer(base: TrainDra, *, batch_size: int, epochs: int) -> TrainDra:
    return replace(base, training=replace(base.training, batch_size=batch_size, epochs=epochs))


def _more_images(base: TrainDra, pattern: str) -> TrainDra:
    return replace(
        base,
        synthetic=replace(base.synthetic, paths=(pattern,)),
        training=replace(base.training, synthetic_fraction=0.8),
    )


def _vit(base: TrainDra, *, epochs: int) -> TrainDra:
    """ViT-B/2: Lion, batch 1024, rate 1e-4, weight decay 0.5.

    Open, and so chosen: a cosine per step after 5 epochs of warm-up, gradients clipped to norm 1, the class token as
    the feature, no stochastic depth; positions, norms and biases do not decay.
    """
    return replace(
        base,
        classifier=ClassifierSettings(network="vit-b2-32"),
        training=replace(
            base.training,
            batch_size=1024,
            epochs=epochs,
            optimizer="lion",
            lr=1e-4,
            weight_decay=0.5,
            undecayed="vectors",
            schedule="cosine",
            warmup=5 / epochs,
        ),
        compute=replace(base.compute, channels_last=False, clip_norm=1.0),
    )


CIFAR: dict[str, Callable[[], TrainDra]] = {
    "cifar10-wrn-34-10": cifar10_wrn_34_10,
    "cifar10-wrn-28-10-1m": cifar10_wrn_28_10_1m,
    "cifar10-wrn-28-10-1m-1024": cifar10_wrn_28_10_1m_1024,
    "cifar10-wrn-28-10-20m": cifar10_wrn_28_10_20m,
    "cifar10-wrn-70-16-50m": cifar10_wrn_70_16_50m,
    "cifar10-vit-b2-20m": cifar10_vit_b2_20m,
    "cifar10-vit-b2-50m": cifar10_vit_b2_50m,
    "cifar100-wrn-28-10-1m": cifar100_wrn_28_10_1m,
    "cifar100-vit-b2-1m": cifar100_vit_b2_1m,
}
