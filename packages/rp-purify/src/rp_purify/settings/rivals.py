"""Settings of the purifiers that others have published, besides DiffPure; the defaults are their authors' for CIFAR-10.

`rp_purify.rival_presets` has them by data set.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from rp_models.settings import require

from rp_purify.settings.base import Per, PurifierSettings, check_network, check_positive, check_resize
from rp_purify.settings.diffusion import OneStepDenoiseSettings, Solver, fewer_reverse_steps
from rp_purify.settings.masked import DescentSettings, MAEReconstructionSettings

Table = Literal["adbm", "vp"]
Guidance = Literal["mse", "ssim", "none"]
Variance = Literal["posterior", "large", "learned"]
Auxiliary = Literal["pi", "rot", "rec"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReverseSettings(PurifierSettings):
    """What the reverse processes have in common."""

    model: str = ""  # checkpoint of a denoiser without classes: EDM or MaskDiT
    resize: int | None = None  # side that images are brought to for the network, and back after it; None: as they are

    def __post_init__(self) -> None:
        check_network(self)
        check_resize(self)

    def one_pass(self) -> PurifierSettings:
        """One denoising step."""
        return OneStepDenoiseSettings(model=self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class GradualSettings(_ReverseSettings):
    """Rounds of little noise and few large denoising steps (Lee and Kim)."""

    kind: str = field(default="gradual", init=False)
    max_times: tuple[int, ...] = (30, 30, 30, 30, 50, 50, 125, 125)  # the largest time step of each round
    round_steps: tuple[int, ...] | None = None  # denoising steps of each round; None for one each time step
    ddim_eta: float = 1.0  # 1 for DDPM, 0 for DDIM

    def __post_init__(self) -> None:
        _ReverseSettings.__post_init__(self)
        require(0 <= self.ddim_eta <= 1, f"purifier.ddim_eta must be in [0, 1], got {self.ddim_eta}")

    def shortened(self, steps: int) -> PurifierSettings | None:
        """One step in rounds of at most 50 time steps, `steps` in longer ones: with 5 the published surrogate's."""
        mine = self.round_steps or self.max_times
        fewer = tuple(min(own, steps if time > 50 else 1) for own, time in zip(mine, self.max_times, strict=True))
        return None if fewer == mine else replace(self, round_steps=fewer)


@dataclass(frozen=True, kw_only=True, slots=True)
class ADBMSettings(_ReverseSettings):
    """A few DDIM steps, of a network tuned by ADBM's bridge."""

    kind: str = field(default="adbm", init=False)
    times: int = 100  # t*, in thousandths
    steps: int = 5  # denoising steps of a round
    table: Table = "adbm"  # the betas: linear from 1e-6 (adbm) or 1e-4 (vp) to 0.02
    clip_denoised: bool = True  # limit each denoised image to the range of images
    stack: int = 1  # how often all of it is done

    def shortened(self, steps: int) -> PurifierSettings | None:
        """Fewer steps."""
        return replace(self, steps=steps) if steps < self.steps else None


@dataclass(frozen=True, kw_only=True, slots=True)
class EDMPurifySettings(_ReverseSettings):
    """EDM's stochastic sampler back from a low level, of a network tuned by ADDT."""

    kind: str = field(default="edm-purify", init=False)
    sigma: float = 0.5  # noise level in the units of [-1, 1]
    steps: int = 50  # Heun steps
    churn: float = 6.0  # noise that is added over all steps

    def __post_init__(self) -> None:
        _ReverseSettings.__post_init__(self)
        check_positive(self, "sigma")
        require(self.churn >= 0, f"purifier.churn must not be negative, got {self.churn}")

    def shortened(self, steps: int) -> PurifierSettings | None:
        """Fewer steps."""
        return replace(self, steps=steps) if steps < self.steps else None


@dataclass(frozen=True, kw_only=True, slots=True)
class COUPSettings(_ReverseSettings):
    """DiffPure's process pulled towards the defended classifier's confidence."""

    kind: str = field(default="coup", init=False)
    times: int = 100  # t*, in thousandths
    weight: float = 1.0  # of the guidance
    noised: bool = False  # noise the images first, which the published scripts do not
    reverse_steps: int | None = None  # of the solvers sde and ode, from t* back to 0; None for one each thousandth
    solver: Solver = "euler-maruyama"  # the reverse process

    def __post_init__(self) -> None:
        _ReverseSettings.__post_init__(self)
        require(self.weight >= 0, f"purifier.weight must not be negative, got {self.weight}")

    def shortened(self, steps: int) -> PurifierSettings | None:
        """Fewer steps, of the solver sde where the own one has as many as there are thousandths."""
        return fewer_reverse_steps(self, steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class GDMPSettings(_ReverseSettings):
    """The reverse process pulled towards the attacked image."""

    kind: str = field(default="gdmp", init=False)
    times: int = 36  # steps of a round
    rounds: int = 4  # of noise and denoising
    weight: float = 600.0  # of the pull on each image, a hundredth of the published guide_scale
    ptb: float = 8 / 255  # the perturbation that the pull is made for, in [0, 1] pixel units
    guidance: Guidance = "mse"  # what the image shall resemble its reference in
    respacing: int | None = None  # keep so many of the 1,000 time steps; None for all
    beyond: bool = True  # noise to one entry beyond the first step's
    noised_reference: bool = True  # noise the reference too
    variance: Variance = "large"  # of the steps
    per: Per = "image"  # whether the similarity is each image's or, as published, a mean over the batch

    def __post_init__(self) -> None:
        _ReverseSettings.__post_init__(self)
        require(self.weight >= 0, f"purifier.weight must not be negative, got {self.weight}")
        check_positive(self, "ptb")

    def shortened(self, steps: int) -> PurifierSettings | None:
        """Fewer time steps, which stand for as much noise."""
        first, fewer = (
            count - 1 + self.beyond for count in (self.times, steps)
        )  # entry of the table with the most noise
        if steps >= self.times or fewer < 1:
            return None
        return replace(self, times=steps, respacing=round(((self.respacing or 1000) - 1) * fewer / first) + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptNSettings(_ReverseSettings):
    """Adam on a noisy image, then one denoising step (ScoreOpt-N; ScoreOpt-O is likelihood)."""

    kind: str = field(default="scoreopt-n", init=False)
    steps: int = 20  # of Adam
    sigma: float = 0.5  # noise level in the units of [-1, 1]
    lr: float = 0.1  # in the units of [-1, 1]
    per: Per = "image"  # whether the loss's mean belongs to each image or, as published, to the batch

    def __post_init__(self) -> None:
        _ReverseSettings.__post_init__(self)
        for name in ("sigma", "lr"):
            check_positive(self, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ADPSettings(_ReverseSettings):
    """Noise and adaptive steps along the score's direction."""

    kind: str = field(default="adp", init=False)
    std: float = 0.25  # standard deviation in [0, 1] pixel units
    steps: int = 10  # at most
    lam: float = 0.05  # wanted relative change of the direction in a step
    stop: float = 1e-3  # an image stops when its step is at most so large
    level: float = 0.1  # noise level of the direction, in the units of [-1, 1]
    per: Per = "image"  # whether images that have stopped stay, or, as published, move with the batch

    def __post_init__(self) -> None:
        _ReverseSettings.__post_init__(self)
        require(0 <= self.std <= 1, f"purifier.std must be in [0, 1], got {self.std}")
        for name in ("lam", "level"):
            check_positive(self, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class SOAPSettings(PurifierSettings):
    """Sign steps that lower a self-supervised loss of the defended classifier."""

    kind: str = field(default="soap", init=False)
    auxiliary: Auxiliary = "pi"  # the loss: label consistency (needs nothing else), rotation, or reconstruction
    auxiliary_model: str = ""  # checkpoint for rot (images to four logits) and rec (images to images)
    delta: float = 4 / 255  # distance of the radii, in [0, 1] pixel units
    step_size: float = 4 / 255  # in [0, 1] pixel units
    steps: int = 5  # sign steps
    radii: int = 11  # how many are tried, 0 among them
    per: Per = "image"  # whether each image has its best radius or, as published, the batch

    def __post_init__(self) -> None:
        for name in ("delta", "step_size"):
            check_positive(self, name)
        require(
            self.auxiliary == "pi" or bool(self.auxiliary_model),
            f"purifier.auxiliary {self.auxiliary} needs a network; name its checkpoint with --purifier.auxiliary-model",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NIMSettings(PurifierSettings):
    """Noise and a reconstruction of the whole image."""

    kind: str = field(default="nim", init=False)
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name
    std: float = 70 / 255  # standard deviation in [0, 1] pixel units
    mask_rate: float = 0.0  # share of hidden patches; 0.75 for DMAE

    def __post_init__(self) -> None:
        check_network(self)
        require(0 <= self.std <= 1, f"purifier.std must be in [0, 1], got {self.std}")
        require(0 <= self.mask_rate < 1, f"purifier.mask_rate must be in [0, 1), got {self.mask_rate}")

    def one_pass(self) -> PurifierSettings:
        """One reconstruction."""
        return MAEReconstructionSettings(mae=self.mae)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentMaskDiTPureSettings(DescentSettings):
    """Sign descent on the loss of a MaskDiT of an autoencoder's latents."""

    kind: str = field(default="latent-maskdit-pure", init=False)
    model: str = ""  # checkpoint of a MaskDiT of latents
    autoencoder: str = ""  # checkpoint of the autoencoder of the latents
    step_size: float = 1 / 255  # in [0, 1] pixel units
    steps: int = 25  # sign steps
    eta: float | None = 4 / 255  # no pixel changes by more, in [0, 1] pixel units; None: no limit
    mask_rate: float = 0.3  # share of hidden patches
    sigma: float = 0.34  # noise level in the units of the latents
    chunk: int | None = None  # differentiate so many images at a time; None for all

    def __post_init__(self) -> None:
        DescentSettings.__post_init__(self)
        check_network(self)
        check_positive(self, "sigma")
        require(
            bool(self.autoencoder),
            f"purifier.kind {self.kind} needs the autoencoder of its latents; name its checkpoint with "
            "--purifier.autoencoder",
        )
