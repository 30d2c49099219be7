"""Settings of `analyze.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from rp_models.robustbench.entries import PREFIX, Entry, find_entry, resolve
from rp_models.settings import InferenceSettings, at_least, require, within

Section = Literal["similarity", "geometry", "curves", "frequency", "dimension", "sparse"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """Everything that determines an analysis' numbers."""

    run: str = "runs/train_dra/digits"  # folder of a finished run of train_dra.py
    sections: tuple[Section, ...] = SECTIONS  # what is looked at; sparse alone needs no attack and no diffusion model
    images: int | None = None  # only that many test images, the field's fixed draw; None for all
    neighbours: int = 10  # k of CKNNA and mutual nearest neighbours
    permutations: int = 200  # of the null distribution of CKNNA
    attack_steps: int = 20  # of PGD, for adversarial features, spectra and curves
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the curves, in multiples of the run's radius
    sae_k: tuple[int, ...] = (8, 16, 32)  # active latents of the sparse autoencoders
    sae_expansion: float = 8.0  # latents over features
    sae_epochs: int = 200  # passes over the training features
    sae_batch: int = 256  # features in a step
    sae_seeds: tuple[int, ...] = (0, 1, 2)  # one autoencoder each
    seed: int = 0  # of attacks and noise
    compute: InferenceSettings = field(default_factory=InferenceSettings)  # of classifiers and targets

    def __post_init__(self) -> None:
        at_least(self, images=20, neighbours=2, attack_steps=1, sae_epochs=1, sae_batch=1)
        require(len(self.sections) > 0, f"sections must name at least one of {', '.join(SECTIONS)}")
        require(len(self.sae_k) > 0 and min(self.sae_k) >= 1, f"sae_k must name positive numbers, got {self.sae_k}")
        require(
            all(a < b for a, b in zip(self.radii, self.radii[1:], strict=False)) and self.radii[:1] >= (0.0,),
            f"radii must increase from 0 on, got {self.radii}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooComparison:
    """A comparison of RobustBench's models with a diffusion model, in place of the analysis of a run (Fig. 1 and 9)."""

    # entries of RobustBench whose files are there, by name; `all`: every one of the data set and threat model that is
    models: tuple[str, ...] = ()
    data: Literal["cifar10", "cifar100"] = "cifar10"  # of the models; its test images are looked at
    threat: Literal["Linf", "L2"] = "Linf"
    edm: str | None = None  # the diffusion model, a checkpoint
    sigma: float = 0.1  # noise level of its features, in EDM's units (images in [-1, 1])
    layer: Literal["enc_last", "mid_in0", "bottleneck", "before_up"] = "bottleneck"  # where they are taken
    standard: str | None = (
        None  # standard classifier of Fig. 9; None: RobustBench's `Standard`, where its file is there
    )
    batch_size: int = 256  # images at a time

    def __post_init__(self) -> None:
        at_least(self, batch_size=1)
        within(self, "", sigma="positive")
        require(not self.models or self.edm is not None, "--models needs a diffusion model: name its checkpoint, --edm")
        if self.models != ("all",):
            self.named()

    def named(self) -> tuple[Entry, ...]:
        """The entries that are named, each once. Raises EntryError for an unknown name."""
        found = {}
        for name in self.models:
            entry = resolve(name, self.data, self.threat) if "/" in name else self._entry(name)
            entry.check_built()
            require(entry.dataset == self.data, f"{entry.title} is no model of {self.data}; its images are others")
            found[entry.spec] = entry
        return tuple(found.values())

    def _entry(self, name: str) -> Entry:
        return find_entry(name.removeprefix(PREFIX), self.data, self.threat)
