"""Settings of the trainings whose adversary works inside the step: ADBM and ADDT."""

from dataclasses import dataclass

from rp_models.settings import at_least, require, within

from rp_purify.settings.base import Per


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningSettings:
    """What both have in common."""

    steps: int = 30_000
    batch_size: int = 128
    lr: float = 2e-4  # constant after the warm-up
    warmup_steps: int = 5_000  # over which the rate rises from zero
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    flip: bool = True  # mirror half of the images; not for digits
    ema: float = 0.999  # the largest decay of the average of the weights, which is what is kept

    def __post_init__(self) -> None:
        at_least(self, "tuning.", steps=1, batch_size=1, warmup_steps=0, weight_decay=0)
        within(self, "tuning.", lr="positive", ema="[0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ADBMTuningSettings(TuningSettings):
    """ADBM's bridge; the defaults are its authors' for CIFAR-10, whose code attacks at 8/255 for every data set."""

    eps: float = 8 / 255  # of the adversary's box and its sign steps, in [0, 1] pixel units
    adversary_steps: int = 3
    tune_T: float = 0.2  # the latest end of a bridge; the earliest is 0.1
    per: Per = "image"  # whose own end is drawn: each image's or, as published, the batch's (of each process)

    def __post_init__(self) -> None:
        TuningSettings.__post_init__(self)
        at_least(self, "adbm.", adversary_steps=0)
        require(0 <= self.eps < 1, f"adbm.eps must be in [0, 1), in pixel units such as 8/255, got {self.eps}")
        require(0.1 <= self.tune_T <= 1, f"adbm.tune_T must be in [0.1, 1], got {self.tune_T}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ADDTTuningSettings(TuningSettings):
    """ADDT's perturbed denoising; the defaults are its authors' for CIFAR-10 and a network of the VP process."""

    steps: int = 19_500  # 100 epochs of 50,000 images
    batch_size: int = 256
    warmup_steps: int = 500
    weight_decay: float = 1e-6
    betas: tuple[float, float] = (0.95, 0.999)
    ema: float = 0.9999
    ema_power: float = 0.75  # the average's decay after n steps is 1 - (1 + n)^-power at most
    adversary_steps: int = 5
    size: float = 0.03  # of the perturbation where it is not capped, in the units of [-1, 1]
    largest: float = 0.3  # share of the noise that is perturbed, at most
    leak: bool = False  # add the adversary's own gradients to the weights', as the public EDM trainer does by mistake

    def __post_init__(self) -> None:
        TuningSettings.__post_init__(self)
        at_least(self, "addt.", adversary_steps=0, size=0)
        within(self, "addt.", largest="[0, 1)", ema_power="positive")
