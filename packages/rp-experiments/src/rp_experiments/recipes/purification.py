"""Settings of purifiers and of `purify.py`; importing this does not import torch."""

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Literal

from rp_models.data.catalog import describe
from rp_models.settings import require

PurifierKind = Literal[
    "mae-pure", "maskdit-pure", "mae-reconstruction", "denoise", "noise", "diffpure", "likelihood", "none"
]
NEEDS = {
    "maskdit-pure": "a MaskDiT",
    "denoise": "a denoiser",
    "diffpure": "an EDM network",
    "likelihood": "an EDM network",
}
_DESCENT = ("steps", "step_size", "halve", "eta", "mask_rate", "masks")
USES: dict[PurifierKind, tuple[str, ...]] = {
    "mae-pure": (*_DESCENT, "masks_per_step", "complementary"),
    "maskdit-pure": (*_DESCENT, "model", "sigma", "schedule", "sigmas", "noise", "mae_weight"),
    "mae-reconstruction": ("mask_rate", "noise_std", "keep_visible"),
    "denoise": ("model", "sigma"),
    "noise": ("std",),
    "diffpure": ("model", "times", "reverse_steps", "solver"),
    "likelihood": ("model", "steps", "levels", "lr"),
    "none": (),
}
"""The settings of each kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifierChoice:
    """Which purifier, and its settings; one that the kind does not have is refused, unless it has its default value."""

    kind: PurifierKind = "mae-pure"
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name; its loss is reported for every kind
    model: str = ""  # checkpoint of maskdit-pure (a MaskDiT), denoise, diffpure or likelihood (EDM), without classes
    steps: int = 20  # of mae-pure, maskdit-pure and likelihood
    step_size: float = 1 / 100  # of mae-pure and maskdit-pure, in [0, 1] pixel units
    halve: bool | None = True  # half the step size in the second half of the steps; None: mae-pure yes, maskdit-pure no
    eta: float | None = 0.15  # mae-pure and maskdit-pure change no pixel by more, in [0, 1] pixel units; None: no limit
    mask_rate: float = 0.5  # share of hidden patches
    masks: Literal["fresh", "fixed"] = "fresh"  # drawn anew at every step, or one for each image
    masks_per_step: int | None = None  # of mae-pure: masks whose losses are averaged in each step; None for 1
    complementary: bool | None = None  # of mae-pure: add to each mask the one that hides the other patches; None for no
    std: float = 0.25  # standard deviation of the noise, for kind noise, in [0, 1] pixel units
    noise_std: float | None = None  # of noise that mae-reconstruction adds before, in [0, 1] pixel units; None for 0
    keep_visible: bool | None = None  # mae-reconstruction keeps the patches that its first pass sees; None for no
    sigma: float = 0.34  # noise level of maskdit-pure and denoise, in the units of [-1, 1]
    schedule: Literal["fixed", "grid", "annealed"] | None = None  # of maskdit-pure's levels over the steps; None: fixed
    sigmas: tuple[float, ...] | None = None  # the levels of the schedules grid and annealed, in place of sigma
    noise: Literal["fresh", "fixed"] | None = None  # of maskdit-pure: as masks; None for fresh
    mae_weight: float | None = None  # of maskdit-pure: weight of the masked patches' reconstruction; None for 0.1
    times: int = 100  # t* of diffpure, in thousandths
    reverse_steps: int | None = None  # of diffpure, from t* back to 0; None for one each thousandth
    solver: Literal["sde", "ode"] = "sde"  # reverse process of diffpure
    levels: tuple[float, float] = (0.4, 0.6)  # lowest and highest noise level of likelihood, in the units of [-1, 1]
    lr: float = 0.1  # of Adam, for kind likelihood, in the units of [-1, 1]

    def __post_init__(self) -> None:
        require(
            bool(self.model) or self.kind not in NEEDS,
            f"purifier.kind {self.kind} needs {NEEDS.get(self.kind)}; name its checkpoint with --purifier.model",
        )
        require(
            bool(self.mae) or not self.kind.startswith("mae-"),
            f"purifier.kind {self.kind} needs a masked autoencoder; name one with --purifier.mae",
        )
        self._check_descent()
        for name in ("std", "noise_std"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"purifier.{name} must be in [0, 1], got {value}")
        for name in ("sigma", "lr"):
            require(getattr(self, name) > 0, f"purifier.{name} must be positive, got {getattr(self, name)}")
        require(1 <= self.times <= 1000, f"purifier.times must be in 1..1000, got {self.times}")
        require(
            self.reverse_steps is None or self.reverse_steps >= 1,
            f"purifier.reverse_steps must be at least 1, got {self.reverse_steps}",
        )
        low, high = self.levels
        require(0 < low <= high, f"purifier.levels must be two rising positive numbers, got {self.levels}")
        self._check_unused()

    def _check_unused(self) -> None:
        """Refuse what would be ignored; None asks for nothing."""
        known = ("kind", "mae", *USES[self.kind])
        given = [field.name for field in fields(self) if getattr(self, field.name) not in (field.default, None)]
        ignored = [f"purifier.{name}" for name in given if name not in known]
        has = ", ".join(USES[self.kind]) or "none"
        require(not ignored, f"purifier.kind {self.kind} does not use {', '.join(ignored)}; its settings are {has}")

    def _check_descent(self) -> None:
        """Refuse settings of mae-pure and maskdit-pure that are out of range, or contradict each other."""
        require(self.steps >= 0, f"purifier.steps must not be negative, got {self.steps}")
        require(0 < self.mask_rate < 1, f"purifier.mask_rate must be between 0 and 1, got {self.mask_rate}")
        for name in ("step_size", "eta"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"purifier.{name} must be in [0, 1], got {value}")
        require(
            self.masks_per_step is None or self.masks_per_step >= 1,
            f"purifier.masks_per_step must be at least 1, got {self.masks_per_step}",
        )
        require(
            self.mae_weight is None or self.mae_weight >= 0,
            f"purifier.mae_weight must not be negative, got {self.mae_weight}",
        )
        require(
            (self.schedule in (None, "fixed")) == (self.sigmas is None),
            "purifier.sigmas are the noise levels of --purifier.schedule grid or annealed, which need them, "
            f"got schedule {self.schedule} and sigmas {self.sigmas}",
        )
        require(
            self.sigmas is None or (len(self.sigmas) >= 2 and min(self.sigmas) > 0),
            f"purifier.sigmas must be two or more positive numbers, got {self.sigmas}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Purification:
    """Everything that determines the purified images."""

    data: str = "digits"  # a data set of the catalogue; it says what size the images have
    split: Literal["train", "validation", "test"] = "test"  # which of its images, unless --input names others
    # other images of that kind: one .npz of `image` and perhaps `label`, PNG and JPEG files, or folders of these
    input: tuple[str, ...] = ()
    images: int | None = None  # only that many, the field's fixed draw (of files the first); None for all
    classifier: str = ""  # checkpoint whose accuracy is reported before and after; needs labels
    seed: int = 0  # of masks and noise
    batch_size: int = 128  # images at a time; changes no image
    purifier: PurifierChoice = field(default_factory=partial(PurifierChoice, halve=None))

    def __post_init__(self) -> None:
        describe(self.data)
        files = [name for name in self.input if name.endswith(".npz")]
        require(
            not files or len(self.input) == 1,
            f"input must be one .npz or PNG and JPEG files, got {' '.join(self.input)}",
        )
        require(
            bool(files) or not (self.input and self.classifier),
            "picture files have no labels, so there is no accuracy; leave out --classifier, or name an .npz with "
            "--input",
        )
        require(self.images is None or self.images >= 1, f"images must be at least 1, got {self.images}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")
