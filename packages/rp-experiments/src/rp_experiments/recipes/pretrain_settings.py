"""What a call of `pretrain.py` is configured by; importing this does not import torch."""

from dataclasses import dataclass, field

from rp_models.data.catalog import describe
from rp_models.settings import (
    ComputeSettings,
    EdmSettings,
    MaeSettings,
    MaskDitSettings,
    StandardSettings,
    at_least,
    require,
    within,
)

from rp_experiments.recipes.table import recipes


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """What all kinds have in common."""

    data: str = "digits"  # a data set of the catalogue, or the path of an .npz or a class folder; its training split
    seed: int = 0  # of weights, batches, augmentation, noise, masks and samples
    half: bool = False  # store the weights in float16; the held-out figures are those of the stored weights
    validate_every: int = 0  # steps between two looks at the validation images, which keep the best weights; 0: none
    compute: ComputeSettings = field(default_factory=ComputeSettings)

    def __post_init__(self) -> None:
        describe(self.data)
        at_least(self, validate_every=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainMae(Pretrain):
    """Everything that determines a masked autoencoder's weights."""

    mae: MaeSettings = field(default_factory=MaeSettings)

    def __post_init__(self) -> None:
        Pretrain.__post_init__(self)
        require(self.mae.mask_rate > 0, "mae.mask_rate must be above 0, else nothing is to be predicted")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainNim(Pretrain):
    """Everything that determines the weights of an autoencoder that is trained to denoise (NIM-MAE, DMAE)."""

    mae: MaeSettings = field(default_factory=lambda: MaeSettings(mask_rate=0.0))
    noise_shape: int = 25  # of the Gamma distribution of the noise's standard deviation
    noise_scale: float = 3 / 255  # of it, in [0, 1] pixel units; the mean is shape times scale
    noise_std: float | None = None  # the one standard deviation of all images in its place, as in DMAE (0.25)

    def __post_init__(self) -> None:
        Pretrain.__post_init__(self)
        at_least(self, noise_shape=1)
        within(self, noise_scale="positive")
        require(
            self.noise_std is None or self.noise_std > 0,
            f"noise_std must be positive, in [0, 1] pixel units, got {self.noise_std}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _PretrainDiffusion(Pretrain):
    """What both kinds of diffusion models have in common."""

    sampler_steps: int = 18  # Heun steps for the sheet of samples

    def __post_init__(self) -> None:
        Pretrain.__post_init__(self)
        at_least(self, sampler_steps=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainEdm(_PretrainDiffusion):
    """Everything that determines an EDM diffusion model's weights."""

    edm: EdmSettings = field(default_factory=EdmSettings)

    def __post_init__(self) -> None:
        _PretrainDiffusion.__post_init__(self)
        size, halvings = describe(self.data).image_size, len(self.edm.channel_mult) - 1
        require(
            size % 2**halvings == 0,
            f"edm.channel_mult has {halvings + 1} resolutions, but {size} pixels cannot be halved {halvings} times",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainMaskDit(_PretrainDiffusion):
    """Everything that determines a MaskDiT's weights."""

    maskdit: MaskDitSettings = field(default_factory=MaskDitSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainClassifier(Pretrain):
    """Everything that determines a standard classifier's weights."""

    standard: StandardSettings = field(default_factory=StandardSettings)


MAE_RECIPES = recipes("pretrain", PretrainMae, "mae")
NIM_RECIPES = recipes("pretrain", PretrainNim, "nim")
EDM_RECIPES = recipes("pretrain", PretrainEdm, "edm")
MASKDIT_RECIPES = recipes("pretrain", PretrainMaskDit, "maskdit")
CLASSIFIER_RECIPES = recipes("pretrain", PretrainClassifier, "classifier")
