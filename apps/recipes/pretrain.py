"""Recipes of `pretrain.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rp_models.data.catalog import describe
from rp_models.settings import EdmSettings, MaeSettings, require

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


MAE_RECIPES: dict[str, Callable[[], PretrainMae]] = {"digits": mae_digits, "smoke": mae_smoke}
EDM_RECIPES: dict[str, Callable[[], PretrainEdm]] = {"digits": edm_digits, "smoke": edm_smoke}
