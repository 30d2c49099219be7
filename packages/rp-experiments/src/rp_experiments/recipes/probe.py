"""Recipes of `probe.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from rp_dra.encoder_settings import EncoderSettings
from rp_models.settings import require

from rp_experiments.recipes import dra
from rp_experiments.recipes.dra_settings import TrainDra

Baseline = Literal["standard", "at", "noisy encoder", "fine-tuned encoder"]
BASELINES: dict[Baseline, str] = {
    "standard": "a classifier after standard training",
    "at": "a classifier after adversarial training (TRADES)",
    "noisy encoder": "the diffusion model's encoder, trained to classify noisy images instead (Appendix E)",
    "fine-tuned encoder": "the diffusion model's encoder, fine-tuned adversarially (Section 5.6)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeStudy:
    """Everything that determines a study's numbers."""

    # diffusion model, classifiers and training, with the settings of train_dra.py; its methods are not used
    models: TrainDra = field(default_factory=TrainDra)
    baselines: tuple[Baseline, ...] = ("standard", "at")  # what the probe is compared with
    sigmas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # noise levels whose probes are compared, clean
    radii: tuple[float, ...] = (0.0, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0)  # in multiples of models.evaluation.eps
    attack_steps: int = 20  # of PGD on the margin at each radius
    noisy_sigmas: tuple[float, ...] = (0.1, 0.3)  # noise levels of the probes with fresh noise; none: leave that out
    noisy_radius: float = 0.5  # where they are attacked, in multiples of models.evaluation.eps
    noisy_images: int = 100  # only that many test images, drawn once and for all
    noisy_steps: int = 10  # of PGD
    noisy_draws: int = 4  # of noise for each training image, when such a probe is fitted
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
        for name in ("attack_steps", "noisy_images", "noisy_steps", "noisy_draws", "passes"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")


def digits() -> ProbeStudy:
    """The embedded 8x8 digits with the diffusion model of train_dra.py: a few minutes on two CPU cores."""
    encoder = EncoderSettings(
        epochs=40, batch_size=128, lr=3e-3, ema_half_life=5_000, crop_padding=1, flip=False, sigma=0.1
    )
    return ProbeStudy(
        models=dra.RECIPES["digits"](), noisy_encoder=encoder, fine_tuning=replace(encoder, epochs=24, lr=1e-3)
    )


def smoke() -> ProbeStudy:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    encoder = EncoderSettings(epochs=1, batch_size=256, crop_padding=1, flip=False)
    return replace(
        digits(),
        models=dra.RECIPES["smoke"](),
        baselines=("standard", "at", "noisy encoder", "fine-tuned encoder"),
        sigmas=(0.1, 0.5),
        radii=(0.0, 1.0),
        attack_steps=2,
        noisy_sigmas=(0.3,),
        noisy_images=10,
        noisy_steps=2,
        noisy_draws=1,
        passes=2,
        noisy_encoder=encoder,
        fine_tuning=encoder,
    )


RECIPES: dict[str, Callable[[], ProbeStudy]] = {"digits": digits, "smoke": smoke}
