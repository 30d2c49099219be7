"""Settings of `analyze.py`; importing this does not import torch."""

from dataclasses import dataclass

from rp_models.settings import at_least, require


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """Everything that determines an analysis' numbers."""

    run: str = "runs/train_dra/digits"  # folder of a finished run of train_dra.py
    images: int | None = None  # only that many test images, the field's fixed draw; None for all
    neighbours: int = 10  # k of CKNNA and mutual nearest neighbours
    permutations: int = 200  # of the null distribution of CKNNA
    attack_steps: int = 20  # of PGD, for adversarial features, spectra and curves
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the curves, in multiples of the run's radius
    sae_k: tuple[int, ...] = (8, 16, 32)  # active latents of the sparse autoencoders
    sae_expansion: float = 8.0  # latents over features
    sae_epochs: int = 200  # passes over the training features
    sae_seeds: tuple[int, ...] = (0, 1, 2)  # one autoencoder each
    seed: int = 0  # of attacks and noise

    def __post_init__(self) -> None:
        at_least(self, images=20, neighbours=2, attack_steps=1, sae_epochs=1)
        require(len(self.sae_k) > 0 and min(self.sae_k) >= 1, f"sae_k must name positive numbers, got {self.sae_k}")
        require(
            all(a < b for a, b in zip(self.radii, self.radii[1:], strict=False)) and self.radii[:1] >= (0.0,),
            f"radii must increase from 0 on, got {self.radii}",
        )
