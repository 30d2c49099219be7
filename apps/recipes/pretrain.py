"""Recipes of `pretrain.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rp_models.data.catalog import describe
from rp_models.settings import EdmSettings, MaeSettings, MaskDitSettings, require

from recipes.dra import digits as dra_digits


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainMae:
    """Everything that determines a masked autoencoder's weights."""

    data: str = "digits"  # a data set of the catalogue; its training split is used
    seed: int = 0  # of weights, batches, crops and masks
    half: bool = False  # store the weights in float16; the held-out loss is that of the stored weights
    mae: MaeSettings = field(default_factory=MaeSettings)

    def __post_init__(self) -> None:
        describe(self.data)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainEdm:
    """Everything that determines a diffusion model's weights."""

    data: str = "digits"  # a data set of the catalogue; its training split is used
    seed: int = 0  # of weights, batches, noise and samples
    half: bool = False  # store the weights in float16; the held-out loss is that of the stored weights
    sampler_steps: int = 18  # Heun steps for the sheet of samples
    edm: EdmSettings = field(default_factory=EdmSettings)

    def __post_init__(self) -> None:
        size, halvings = describe(self.data).image_size, len(self.edm.channel_mult) - 1
        require(
            size % 2**halvings == 0,
            f"edm.channel_mult has {halvings + 1} resolutions, but {size} pixels cannot be halved {halvings} times",
        )
        require(self.sampler_steps >= 2, f"sampler_steps must be at least 2, got {self.sampler_steps}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainMaskDit:
    """Everything that determines a MaskDiT's weights."""

    data: str = "digits"  # a data set of the catalogue; its training split is used
    seed: int = 0  # of weights, batches, noise, masks and samples
    half: bool = False  # store the weights in float16; the held-out loss is that of the stored weights
    sampler_steps: int = 18  # Heun steps for the sheet of samples
    maskdit: MaskDitSettings = field(default_factory=MaskDitSettings)

    def __post_init__(self) -> None:
        describe(self.data)
        require(self.sampler_steps >= 2, f"sampler_steps must be at least 2, got {self.sampler_steps}")


def mae_digits() -> PretrainMae:
    """The checkpoint `mae-digits` that comes with rp-models (there with `--half`): two minutes on a CPU core."""
    return PretrainMae(
        mae=MaeSettings(network="mae-digits", mask_rate=0.5, steps=4000, batch_size=128, lr=2e-3, warmup_steps=200)
    )


def mae_smoke() -> PretrainMae:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = mae_digits()
    return replace(base, mae=replace(base.mae, steps=4, batch_size=16, warmup_steps=1))


def edm_digits() -> PretrainEdm:
    """The diffusion model of `train_dra.py` on the digits."""
    return PretrainEdm(edm=dra_digits().edm)


def edm_smoke() -> PretrainEdm:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = edm_digits()
    return replace(base, sampler_steps=2, edm=replace(base.edm, model_channels=8, steps=4, batch_size=16))


def mae_fashion_mnist() -> PretrainMae:
    """Fashion-MNIST in about twenty minutes on a CPU core."""
    return PretrainMae(
        data="fashion-mnist",
        half=True,
        mae=MaeSettings(
            network="mae-fashion-mnist", mask_rate=0.6, steps=4000, batch_size=128, lr=2e-3, warmup_steps=200
        ),
    )


def edm_digits_unconditional() -> PretrainEdm:
    """The digits without classes: what DiffPure and likelihood maximisation use there."""
    base = edm_digits()
    return replace(base, half=True, edm=replace(base.edm, conditional=False))


def edm_fashion_mnist() -> PretrainEdm:
    """Fashion-MNIST in about twenty-five minutes on a CPU core."""
    return PretrainEdm(
        data="fashion-mnist",
        half=True,
        edm=EdmSettings(
            model_channels=32,
            channel_mult=(1, 2, 2),
            num_blocks=1,
            attn_resolutions=(7,),
            dropout=0.0,
            steps=3000,
            batch_size=64,
            lr=2e-3,
            rampup_images=12_800,
            ema_half_life=20_000,
        ),
    )


def maskdit_digits() -> PretrainMaskDit:
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


def maskdit_fashion_mnist() -> PretrainMaskDit:
    """Fashion-MNIST in about twenty minutes on a CPU core, class-conditional."""
    return PretrainMaskDit(
        data="fashion-mnist",
        half=True,
        maskdit=MaskDitSettings(
            network="maskdit-fashion-mnist",
            num_classes=10,
            steps=4000,
            unmasked_steps=1000,
            batch_size=64,
            lr=1.5e-3,
            unmasked_lr=5e-4,
            warmup_steps=200,
            ema_half_life=30_000,
        ),
    )


def maskdit_smoke() -> PretrainMaskDit:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = maskdit_digits()
    small = replace(base.maskdit, steps=4, unmasked_steps=2, batch_size=16, warmup_steps=1)
    return replace(base, sampler_steps=2, maskdit=small)


MAE_RECIPES: dict[str, Callable[[], PretrainMae]] = {
    "digits": mae_digits,
    "fashion-mnist": mae_fashion_mnist,
    "smoke": mae_smoke,
}
EDM_RECIPES: dict[str, Callable[[], PretrainEdm]] = {
    "digits": edm_digits,
    "digits-unconditional": edm_digits_unconditional,
    "fashion-mnist": edm_fashion_mnist,
    "smoke": edm_smoke,
}
MASKDIT_RECIPES: dict[str, Callable[[], PretrainMaskDit]] = {
    "digits": maskdit_digits,
    "fashion-mnist": maskdit_fashion_mnist,
    "smoke": maskdit_smoke,
}
