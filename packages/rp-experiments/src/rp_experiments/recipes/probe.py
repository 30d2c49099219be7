"""Recipes of `probe.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from typing import Literal

from rp_dra.encoder_settings import EncoderSettings, ProbeSettings
from rp_models.settings import at_least, require

from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.table import recipes

Baseline = Literal["standard", "at", "noisy encoder", "fine-tuned encoder"]
BASELINES: dict[Baseline, str] = {
    "standard": "a classifier after standard training",
    "at": "a classifier after adversarial training (TRADES)",
    "noisy encoder": "the diffusion model's encoder, trained to classify noisy images instead (Appendix E)",
    "fine-tuned encoder": "the diffusion model's encoder, fine-tuned adversarially (Section 5.6)",
}
DETERMINISTIC: tuple[Baseline, ...] = ("standard", "at", "fine-tuned encoder")
"""Baselines without noise, which AutoAttack's standard version can judge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeStudy:
    """Everything that determines a study's numbers."""

    # diffusion model, classifiers and training, with the settings of train_dra.py; its methods are not used
    models: TrainDra = field(default_factory=TrainDra)
    baselines: tuple[Baseline, ...] = ("standard", "at")  # what the probe is compared with
    sigmas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # noise levels whose probes are compared, clean
    radii: tuple[float, ...] = (0.0, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0)  # in multiples of models.evaluation.eps
    attack_steps: int = 20  # of PGD on the margin at each radius
    autoattack: bool = False  # judge baselines without noise by AutoAttack too, as models.evaluation says
    noisy_sigmas: tuple[float, ...] = (0.1, 0.3)  # noise levels of the probes with fresh noise; none: leave that out
    noisy_radius: float = 0.5  # where they are attacked, in multiples of models.evaluation.eps
    noisy_images: int = 100  # only that many test images, drawn once and for all
    noisy_steps: int = 10  # of PGD
    noisy_draws: int = 4  # of noise for each training image, when such a linear probe is fitted
    noisy_autoattack: bool = False  # attack them by AutoAttack's standard version too, which does not average
    # their head; an attention head is trained so, a linear one fitted by logistic regression
    noisy_probe: ProbeSettings = field(default_factory=ProbeSettings)
    passes: int = 20  # draws of noise averaged in each gradient of the attack with EOT
    noisy_encoder: EncoderSettings = field(default_factory=EncoderSettings)
    fine_tuning: EncoderSettings = field(default_factory=lambda: EncoderSettings(lr=1e-4))

    def __post_init__(self) -> None:
        require(
            len(set(self.baselines)) == len(self.baselines), f"baselines names one twice: {' '.join(self.baselines)}"
        )
        for name in ("sigmas", "noisy_sigmas"):
            require(
                all(sigma > 0 for sigma in getattr(self, name)), f"{name} must be positive, got {getattr(self, name)}"
            )
        require(
            self.radii[:1] == (0.0,) and all(a < b for a, b in zip(self.radii, self.radii[1:], strict=False)),
            f"radii must increase from 0 on, got {self.radii}",
        )
        require(self.noisy_radius > 0, f"noisy_radius must be positive, got {self.noisy_radius}")
        at_least(self, attack_steps=1, noisy_images=1, noisy_steps=1, noisy_draws=1, passes=1)


RECIPES = recipes("probe", ProbeStudy)
