"""Settings of the purifiers whose model sees masked images: sign descent and one-pass reconstruction."""

from dataclasses import dataclass, field
from typing import Literal

from rp_models.settings import require

from rp_purify.settings.base import PurifierSettings, check_network, check_positive
from rp_purify.settings.diffusion import OneStepDenoiseSettings

Freshness = Literal["fresh", "fixed"]
Schedule = Literal["fixed", "grid", "annealed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignStepsSettings(PurifierSettings):
    """Steps of signs, whatever gives their direction."""

    steps: int = 20  # sign steps
    step_size: float = 1 / 100  # in [0, 1] pixel units
    halve: bool | None = None  # half the step size in the second half of the steps; None: mae-pure yes, maskdit-pure no
    eta: float | None = 0.15  # no pixel changes by more, in [0, 1] pixel units; None: no limit

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"purifier.steps must not be negative, got {self.steps}")
        for name in ("step_size", "eta"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"purifier.{name} must be in [0, 1], got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DescentSettings(SignStepsSettings):
    """What MAE-Pure and MaskDiT-Pure have in common."""

    mask_rate: float = 0.5  # share of hidden patches
    masks: Freshness = "fresh"  # drawn anew at every step, or one for each image

    def __post_init__(self) -> None:
        SignStepsSettings.__post_init__(self)
        require(0 < self.mask_rate < 1, f"purifier.mask_rate must be between 0 and 1, got {self.mask_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomStepsSettings(SignStepsSettings):
    """Steps of random signs, the control of sign descent."""

    kind: str = field(default="random-steps", init=False)
    halve: bool = True  # half the step size in the second half of the steps


@dataclass(frozen=True, kw_only=True, slots=True)
class MAEPureSettings(DescentSettings):
    """Sign descent on a masked autoencoder's loss."""

    kind: str = field(default="mae-pure", init=False)
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name
    masks_per_step: int = 1  # masks whose losses are averaged in each step
    complementary: bool = False  # add to each mask the one that hides the other patches

    def __post_init__(self) -> None:
        DescentSettings.__post_init__(self)
        check_network(self)
        require(self.masks_per_step >= 1, f"purifier.masks_per_step must be at least 1, got {self.masks_per_step}")

    def one_pass(self) -> PurifierSettings:
        """One reconstruction."""
        return MAEReconstructionSettings(mae=self.mae)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDiTPureSettings(DescentSettings):
    """Sign descent on MaskDiT's loss."""

    kind: str = field(default="maskdit-pure", init=False)
    model: str = ""  # checkpoint of a MaskDiT without classes
    sigma: float = 0.34  # noise level in the units of [-1, 1]
    schedule: Schedule = "fixed"  # of the levels over the steps
    sigmas: tuple[float, ...] | None = None  # the levels of the schedules grid and annealed, in place of sigma
    noise: Freshness = "fresh"  # as masks
    mae_weight: float = 0.1  # weight of the masked patches' reconstruction

    def __post_init__(self) -> None:
        DescentSettings.__post_init__(self)
        check_network(self)
        check_positive(self, "sigma")
        require(self.mae_weight >= 0, f"purifier.mae_weight must not be negative, got {self.mae_weight}")
        require(
            (self.schedule == "fixed") == (self.sigmas is None),
            "purifier.sigmas are the noise levels of --purifier.schedule grid or annealed, which need them, "
            f"got schedule {self.schedule} and sigmas {self.sigmas}",
        )
        require(
            self.sigmas is None or (len(self.sigmas) >= 2 and min(self.sigmas) > 0),
            f"purifier.sigmas must be two or more positive numbers, got {self.sigmas}",
        )

    def one_pass(self) -> PurifierSettings:
        """One denoising step."""
        return OneStepDenoiseSettings(model=self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class MAEReconstructionSettings(PurifierSettings):
    """One reconstruction, every patch predicted while it is hidden."""

    kind: str = field(default="mae-reconstruction", init=False)
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name
    mask_rate: float = 0.5  # share of hidden patches
    noise_std: float = 0.0  # standard deviation of noise that is added before, in [0, 1] pixel units
    keep_visible: bool = False  # keep the patches that the first pass sees

    def __post_init__(self) -> None:
        check_network(self)
        require(0 < self.mask_rate < 1, f"purifier.mask_rate must be between 0 and 1, got {self.mask_rate}")
        require(0 <= self.noise_std <= 1, f"purifier.noise_std must be in [0, 1], got {self.noise_std}")
