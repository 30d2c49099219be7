"""Settings of `evaluate.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from rp_models.data.catalog import describe
from rp_models.settings import require

from recipes.purification import PurifierChoice

SuiteName = Literal[
    "quick",
    "pgd200-eot20-linf",
    "pgd200-eot20-l2",
    "pgd200-eot20-l1",
    "autoattack",
    "autoattack-rand",
    "bpda-eot20",
    "cw-eot",
    "deepfool-eot",
    "blackbox",
    "unseen",
    "purifier",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything that determines an evaluation's numbers."""

    # checkpoint of the classifier, a file or a name; "" for the data set's standard one, where that is soon trained
    model: str = ""
    data: str = "digits"  # a data set of the catalogue; its test split is attacked
    suite: SuiteName = "quick"  # which family of attacks
    norm: Literal["linf", "l2", "l1"] = "linf"  # of suites that exist in several
    eps: float | None = None  # radius in [0, 1] pixel units; None: the data set's conventional one
    images: int | None = 512  # that many test images, the field's fixed draw; None for all
    passes: int | None = None  # verdict passes of a random defence; None: 20, and 1 for a deterministic one
    pixels: Literal["float", "uint8"] = "float"  # uint8 judges adversarial images that an image file can hold
    probes: int = 32  # images on which signs of masked gradients are looked for, by SPSA among others; 0 for none
    exhaustive: bool = False  # run every attack on every image, for its own accuracy
    seed: int = 0  # of attacks, controls and verdicts
    batch_size: int = 128  # images attacked at a time
    defended: bool = False  # put the purifier of the settings below in front of the classifier
    purifier: PurifierChoice = field(default_factory=partial(PurifierChoice, halve=None))

    def __post_init__(self) -> None:
        describe(self.data)
        require(self.eps is None or self.eps >= 0, f"eps must not be negative, got {self.eps}")
        require(self.images is None or self.images >= 1, f"images must be at least 1, got {self.images}")
        require(self.probes >= 0, f"probes must not be negative, got {self.probes}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def model_name(self) -> str:
        """What to call the classifier."""
        return Path(self.model).stem or "standard"
