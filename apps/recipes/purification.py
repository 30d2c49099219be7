"""Settings of purifiers and of `purify.py`; importing this does not import torch."""

from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifierChoice:
    """Which purifier, and its settings; those that a kind does not have are ignored."""

    kind: PurifierKind = "mae-pure"
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name; its loss is reported for every kind
    model: str = ""  # checkpoint of maskdit-pure (a MaskDiT), denoise, diffpure or likelihood (EDM), without classes
    steps: int = 20  # of mae-pure, maskdit-pure and likelihood
    step_size: float = 1 / 100  # of mae-pure and maskdit-pure, in [0, 1] pixel units
    halve: bool = True  # take half the step size in the second half of the steps
    eta: float = 0.15  # mae-pure and maskdit-pure change no pixel by more, in [0, 1] pixel units
    mask_rate: float = 0.5  # share of hidden patches
    masks: Literal["fresh", "fixed"] = "fresh"  # drawn anew at every step, or one for each image
    std: float = 0.25  # standard deviation of the noise, for kind noise, in [0, 1] pixel units
    sigma: float = 0.34  # noise level of maskdit-pure and denoise, in the units of [-1, 1]
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
        require(self.steps >= 0, f"purifier.steps must not be negative, got {self.steps}")
        require(0 < self.mask_rate < 1, f"purifier.mask_rate must be between 0 and 1, got {self.mask_rate}")
        for name in ("step_size", "eta", "std"):
            require(0 <= getattr(self, name) <= 1, f"purifier.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("sigma", "lr"):
            require(getattr(self, name) > 0, f"purifier.{name} must be positive, got {getattr(self, name)}")
        require(1 <= self.times <= 1000, f"purifier.times must be in 1..1000, got {self.times}")
        require(
            self.reverse_steps is None or self.reverse_steps >= 1,
            f"purifier.reverse_steps must be at least 1, got {self.reverse_steps}",
        )
        low, high = self.levels
        require(0 < low <= high, f"purifier.levels must be two rising positive numbers, got {self.levels}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Purification:
    """Everything that determines the purified images."""

    data: str = "digits"  # a data set of the catalogue; it says what size the images have
    split: Literal["train", "validation", "test"] = "test"  # which of its images, unless --input names others
    input: tuple[str, ...] = ()  # other images of that kind: one .npz of `image` and `label`, PNG files, or a folder
    images: int | None = None  # only that many, the field's fixed draw (of PNG files the first); None for all
    classifier: str = ""  # checkpoint whose accuracy is reported before and after; needs labels
    seed: int = 0  # of masks and noise
    batch_size: int = 128  # images at a time; changes no image
    purifier: PurifierChoice = PurifierChoice()

    def __post_init__(self) -> None:
        describe(self.data)
        files = [name for name in self.input if name.endswith(".npz")]
        require(not files or len(self.input) == 1, f"input must be one .npz or PNG files, got {' '.join(self.input)}")
        require(
            bool(files) or not (self.input and self.classifier),
            "PNG files have no labels, so there is no accuracy; leave out --classifier, or name an .npz with --input",
        )
        require(self.images is None or self.images >= 1, f"images must be at least 1, got {self.images}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")
