"""Settings of the purifiers that noise and denoise."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rp_models.settings import require

from rp_purify.settings.base import Per, PurifierSettings, check_network, check_positive, check_resize

Solver = Literal["sde", "ode", "euler-maruyama", "ddpm", "predictor-corrector"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OneStepDenoiseSettings(PurifierSettings):
    """Noise and one denoising step."""

    kind: str = field(default="denoise", init=False)
    model: str = ""  # checkpoint of a denoiser without classes: EDM or MaskDiT
    sigma: float = 0.34  # noise level in the units of [-1, 1]

    def __post_init__(self) -> None:
        check_network(self)
        check_positive(self, "sigma")


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianNoiseSettings(PurifierSettings):
    """Noise alone."""

    kind: str = field(default="noise", init=False)
    std: float = 0.25  # standard deviation in [0, 1] pixel units

    def __post_init__(self) -> None:
        require(0 <= self.std <= 1, f"purifier.std must be in [0, 1], got {self.std}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffPureSettings(PurifierSettings):
    """Noise and the reverse diffusion."""

    kind: str = field(default="diffpure", init=False)
    model: str = ""  # checkpoint of a denoiser without classes: EDM or MaskDiT
    times: int = 100  # t*, in thousandths
    reverse_steps: int | None = None  # from t* back to 0; None for one each thousandth
    solver: Solver = "sde"  # the reverse process; euler-maruyama is the published one
    resize: int | None = None  # side that images are brought to for the network, and back after it; None: as they are

    def __post_init__(self) -> None:
        check_network(self)
        check_resize(self)
        require(1 <= self.times <= 1000, f"purifier.times must be in 1..1000, got {self.times}")
        require(
            self.reverse_steps is None or self.reverse_steps >= 1,
            f"purifier.reverse_steps must be at least 1, got {self.reverse_steps}",
        )

    def shortened(self, steps: int) -> "PurifierSettings | None":
        """Fewer steps, of the solver sde where the own one has as many as there are thousandths."""
        return fewer_reverse_steps(self, steps)


def fewer_reverse_steps(settings: Any, steps: int) -> PurifierSettings | None:
    """Settings with `times`, `reverse_steps` and a `solver` in fewer steps, if they have more."""
    if (settings.reverse_steps or settings.times) <= steps:
        return None
    solver = settings.solver if settings.solver in ("sde", "ode") else "sde"
    made: PurifierSettings = replace(settings, reverse_steps=steps, solver=solver)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodSettings(PurifierSettings):
    """Adam on the denoising loss."""

    kind: str = field(default="likelihood", init=False)
    model: str = ""  # checkpoint of a denoiser without classes: EDM or MaskDiT
    steps: int = 5  # of Adam
    levels: tuple[float, float] = (0.4, 0.6)  # lowest and highest noise level, in the units of [-1, 1]
    lr: float = 0.1  # in the units of [-1, 1]
    per: Per = "image"  # whether a level and the loss's mean belong to each image or, as published, to the batch

    def __post_init__(self) -> None:
        check_network(self)
        check_positive(self, "lr")
        require(self.steps >= 0, f"purifier.steps must not be negative, got {self.steps}")
        low, high = self.levels
        require(0 < low <= high, f"purifier.levels must be two rising positive numbers, got {self.levels}")

    def one_pass(self) -> PurifierSettings:
        """One denoising step."""
        return OneStepDenoiseSettings(model=self.model)
