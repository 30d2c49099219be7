"""Recipes of `analyze_purifier.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from rp_models.data.catalog import describe
from rp_models.settings import InferenceSettings, at_least, require

from rp_experiments.recipes.finetuning import DescentSettings
from rp_experiments.recipes.table import recipes

NETWORKS = ("mae", "rmae", "maskdit", "rmaskdit")


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifierAnalysis:
    """Everything that determines an analysis' numbers."""

    data: str = "digits"  # a data set of the catalogue; images of its test split
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name
    rmae: str = ""  # checkpoint of the robustly fine-tuned one, for Fig. 6; none leaves it out
    maskdit: str = ""  # checkpoint of a MaskDiT, for Fig. 7; none leaves it out
    rmaskdit: str = ""  # checkpoint of the robustly fine-tuned one
    # checkpoint of the classifier that is attacked; "" for the data set's standard one, where that is soon trained
    classifier: str = ""
    images: int | None = 150  # so many test images, the field's fixed draw; None for all
    eps: float | None = None  # Linf radius in [0, 1] pixel units; None for the data set's usual one
    radii: tuple[float, ...] = (0.0, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the curves, multiples of eps
    # on the classifier; images that AutoAttack cannot break stay as they are, and its random numbers are a batch's
    attack: Literal["pgd", "autoattack"] = "pgd"
    attack_steps: int = 20  # of PGD, step size 2.5 eps / steps
    weak_steps: tuple[int, ...] = (1, 5)  # of weaker attacks, for Theorem 3.2
    mask_rate: float = 0.5  # hidden share when AMV and loss are measured
    sigma: float = 0.34  # noise level of the MaskDiT, in the units of [-1, 1]
    descent: DescentSettings = field(default_factory=DescentSettings)  # of MAE-Pure and MaskDiT-Pure
    # of networks that have one of their own, by the names of the fields above, such as rmae; for recipes
    descents: Annotated[dict[str, DescentSettings] | None, tyro.conf.Suppress] = None
    every: int = 2  # steps of purification between two points of a curve
    kernel_images: int = 16  # for Theorem 3.1
    features: int = 2000  # random features of its kernel
    examples: int = 3  # images on the attention maps
    sheet: int = 8  # images on the sheet of reconstructions
    seed: int = 0  # of attacks, masks and noise
    batch_size: int = 64  # images at a time; changes no number beyond rounding, but for AutoAttack's
    compute: InferenceSettings = field(default_factory=InferenceSettings)  # of the networks that are looked at

    def __post_init__(self) -> None:
        info = describe(self.data)
        require(self.eps is not None or "linf" in info.eps, f"{self.data} has no usual radius; name one with --eps")
        require(bool(self.mae), "the analysis needs a masked autoencoder; name one with --mae")
        require(self.eps is None or 0 < self.eps <= 0.5, f"eps must be in (0, 0.5], got {self.eps}; divide by 255")
        at_least(
            self, images=4, attack_steps=1, every=1, kernel_images=1, features=1, examples=1, sheet=1, batch_size=1
        )
        require(
            len(self.radii) >= 3
            and self.radii[0] == 0
            and 1 in self.radii
            and all(a < b for a, b in zip(self.radii, self.radii[1:], strict=False)),
            f"radii must be three or more, increase from 0 on and name 1, the radius itself, got {self.radii}",
        )
        require(all(steps >= 1 for steps in self.weak_steps), f"weak_steps must be positive, got {self.weak_steps}")
        require(0 < self.mask_rate < 1, f"mask_rate must be between 0 and 1, got {self.mask_rate}")
        require(self.sigma > 0, f"sigma must be positive, got {self.sigma}")
        unknown = sorted(set(self.descents or {}) - set(NETWORKS))
        require(not unknown, f"descents must name networks of {', '.join(NETWORKS)}, got {' '.join(unknown)}")

    def descent_of(self, network: str) -> DescentSettings:
        """The purifier's steps around one of the networks."""
        return (self.descents or {}).get(network, self.descent)

    @property
    def radius(self) -> float:
        """The Linf radius, in [0, 1] pixel units."""
        return describe(self.data).eps["linf"] if self.eps is None else self.eps


RECIPES = recipes("analyze_purifier", PurifierAnalysis)
