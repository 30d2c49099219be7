"""Settings of the purifiers, one class each, and of robust fine-tuning; importing this does not import torch."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from rp_models.settings import require

Freshness = Literal["fresh", "fixed"]
Schedule = Literal["fixed", "grid", "annealed"]
Solver = Literal["sde", "ode", "euler-maruyama", "ddpm"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifierSettings:
    """What all purifiers' settings have: a kind, which names the purifier on command lines and in tables."""

    kind: str = field(default="", init=False)

    def in_words(self) -> str:
        """The settings in one line, networks left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("kind", "mae", "model")}
        return ", ".join(f"{name} {_short(value)}" for name, value in values.items() if value is not None) or "as it is"

    def one_pass(self) -> "PurifierSettings | None":
        """The purifier of one pass with the same network, or None where there is none."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _DescentSettings(PurifierSettings):
    """What MAE-Pure and MaskDiT-Pure have in common."""

    steps: int = 20  # sign steps
    step_size: float = 1 / 100  # in [0, 1] pixel units
    halve: bool | None = None  # half the step size in the second half of the steps; None: mae-pure yes, maskdit-pure no
    eta: float | None = 0.15  # no pixel changes by more, in [0, 1] pixel units; None: no limit
    mask_rate: float = 0.5  # share of hidden patches
    masks: Freshness = "fresh"  # drawn anew at every step, or one for each image

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"purifier.steps must not be negative, got {self.steps}")
        require(0 < self.mask_rate < 1, f"purifier.mask_rate must be between 0 and 1, got {self.mask_rate}")
        for name in ("step_size", "eta"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"purifier.{name} must be in [0, 1], got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MAEPureSettings(_DescentSettings):
    """Sign descent on a masked autoencoder's loss."""

    kind: str = field(default="mae-pure", init=False)
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name
    masks_per_step: int = 1  # masks whose losses are averaged in each step
    complementary: bool = False  # add to each mask the one that hides the other patches

    def __post_init__(self) -> None:
        _DescentSettings.__post_init__(self)
        _check_network(self)
        require(self.masks_per_step >= 1, f"purifier.masks_per_step must be at least 1, got {self.masks_per_step}")

    def one_pass(self) -> PurifierSettings:
        """One reconstruction."""
        return MAEReconstructionSettings(mae=self.mae)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDiTPureSettings(_DescentSettings):
    """Sign descent on MaskDiT's loss."""

    kind: str = field(default="maskdit-pure", init=False)
    model: str = ""  # checkpoint of a MaskDiT without classes
    sigma: float = 0.34  # noise level in the units of [-1, 1]
    schedule: Schedule = "fixed"  # of the levels over the steps
    sigmas: tuple[float, ...] | None = None  # the levels of the schedules grid and annealed, in place of sigma
    noise: Freshness = "fresh"  # as masks
    mae_weight: float = 0.1  # weight of the masked patches' reconstruction

    def __post_init__(self) -> None:
        _DescentSettings.__post_init__(self)
        _check_network(self)
        _check_positive(self, "sigma")
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
        _check_network(self)
        require(0 < self.mask_rate < 1, f"purifier.mask_rate must be between 0 and 1, got {self.mask_rate}")
        require(0 <= self.noise_std <= 1, f"purifier.noise_std must be in [0, 1], got {self.noise_std}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OneStepDenoiseSettings(PurifierSettings):
    """Noise and one denoising step."""

    kind: str = field(default="denoise", init=False)
    model: str = ""  # checkpoint of a denoiser without classes: EDM or MaskDiT
    sigma: float = 0.34  # noise level in the units of [-1, 1]

    def __post_init__(self) -> None:
        _check_network(self)
        _check_positive(self, "sigma")


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
    solver: Solver = "sde"  # the reverse process

    def __post_init__(self) -> None:
        _check_network(self)
        require(1 <= self.times <= 1000, f"purifier.times must be in 1..1000, got {self.times}")
        require(
            self.reverse_steps is None or self.reverse_steps >= 1,
            f"purifier.reverse_steps must be at least 1, got {self.reverse_steps}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodSettings(PurifierSettings):
    """Adam on the denoising loss."""

    kind: str = field(default="likelihood", init=False)
    model: str = ""  # checkpoint of a denoiser without classes: EDM or MaskDiT
    steps: int = 20  # of Adam
    levels: tuple[float, float] = (0.4, 0.6)  # lowest and highest noise level, in the units of [-1, 1]
    lr: float = 0.1  # in the units of [-1, 1]

    def __post_init__(self) -> None:
        _check_network(self)
        _check_positive(self, "lr")
        require(self.steps >= 0, f"purifier.steps must not be negative, got {self.steps}")
        low, high = self.levels
        require(0 < low <= high, f"purifier.levels must be two rising positive numbers, got {self.levels}")

    def one_pass(self) -> PurifierSettings:
        """One denoising step."""
        return OneStepDenoiseSettings(model=self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoPurificationSettings(PurifierSettings):
    """The images as they are."""

    kind: str = field(default="none", init=False)


KINDS: dict[str, type[PurifierSettings]] = {
    "mae-pure": MAEPureSettings,
    "maskdit-pure": MaskDiTPureSettings,
    "mae-reconstruction": MAEReconstructionSettings,
    "denoise": OneStepDenoiseSettings,
    "noise": GaussianNoiseSettings,
    "diffpure": DiffPureSettings,
    "likelihood": LikelihoodSettings,
    "none": NoPurificationSettings,
}
"""The settings of each kind."""
_NETWORKS = {"maskdit-pure": "a MaskDiT", "denoise": "a denoiser"}


def uses(kind: str) -> tuple[str, ...]:
    """The names of a kind's settings; the kind may be spelt mae-pure or mae_pure."""
    chosen = KINDS.get(kind.replace("_", "-"))
    if chosen is None:
        raise ValueError(f"purifier.kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return tuple(f.name for f in fields(chosen) if f.init)


def settings_of(kind: str, **values: Any) -> PurifierSettings:
    """The settings of one kind of purifier."""
    known = uses(kind)
    ignored = ", ".join(f"purifier.{name}" for name in values if name not in known)
    has = ", ".join(known) or "none"
    require(not ignored, f"purifier.kind {kind} does not use {ignored}; its settings are {has}")
    return KINDS[kind.replace("_", "-")](**values)


def _check_network(settings: PurifierSettings) -> None:
    """Refuse a purifier without the checkpoint that it needs."""
    kind, role = settings.kind, "mae" if hasattr(settings, "mae") else "model"
    network = "a masked autoencoder" if role == "mae" else _NETWORKS.get(kind, "an EDM network")
    message = f"purifier.kind {kind} needs {network}; name its checkpoint with --purifier.{role}"
    require(bool(getattr(settings, role)), message)


def _check_positive(settings: PurifierSettings, name: str) -> None:
    require(getattr(settings, name) > 0, f"purifier.{name} must be positive, got {getattr(settings, name)}")


def _short(value: object) -> str:
    """A number with three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """Robust fine-tuning of a purifier's model (MAE-Pure, appendix F.1); what the paper leaves open is marked."""

    steps: int = 39_100  # 100 epochs of 50,000 images
    batch_size: int = 128  # open
    lr: float = 1e-5  # of AdamW, open
    weight_decay: float = 0.0  # open
    class_weight: float = 1.0  # of the classifier's cross-entropy on purified adversarial images
    mu: float = 1.0  # of the model's own loss on clean images, open
    noise_std: float = 0.25  # of the noise on the images that are attacked, in [0, 1] pixel units, open
    mask_rate: float = 0.75  # of the model's own loss; 0.5 for MaskDiT

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"finetune.steps must be at least 1, got {self.steps}")
        require(self.batch_size >= 1, f"finetune.batch_size must be at least 1, got {self.batch_size}")
        require(self.lr > 0, f"finetune.lr must be positive, got {self.lr}")
        require(self.weight_decay >= 0, f"finetune.weight_decay must not be negative, got {self.weight_decay}")
        require(self.class_weight > 0, f"finetune.class_weight must be positive, got {self.class_weight}")
        require(self.mu >= 0, f"finetune.mu must not be negative, got {self.mu}")
        require(self.noise_std >= 0, f"finetune.noise_std must not be negative, got {self.noise_std}")
        require(0 < self.mask_rate < 1, f"finetune.mask_rate must be in (0, 1), got {self.mask_rate}")
