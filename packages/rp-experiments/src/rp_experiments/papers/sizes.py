"""Where the scales differ, and the products that are made for one; importing this does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rp_attacks.settings import Budget

from rp_experiments.artifacts import Artifact
from rp_experiments.papers.settings import Family
from rp_experiments.papers.tiers import Tier
from rp_experiments.recipes import analyze_purifier, probe
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.pretrain_settings import PretrainClassifier
from rp_experiments.recipes.table import read

_MINUTES = read(Path(__file__).with_name("minutes"))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Where the scales differ beyond the recipes of the apps."""

    scale: str
    tier: Tier = field(default_factory=Tier)
    comparisons: Mapping[str, Comparison]
    runs: Mapping[str, TrainDra]
    adversarial: Mapping[str, TrainDra] = field(default_factory=dict)  # by data set, where no run has it
    zoo: tuple[str, ...] = ()  # entries of RobustBench beside the first run's diffusion model
    rivals: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # entries of RobustBench by name and data set
    sparse_run: str = ""  # the recipe whose run has the sparse autoencoders; by default the first
    sweep_base: str = ""  # recipe; by default the first run's
    sweep_images: int | None = None
    weights: tuple[str, ...] = ("0", "0.3", "0.6", "1.2", "2.4")
    probe: probe.ProbeStudy
    views: Mapping[str, analyze_purifier.PurifierAnalysis]  # by data set; of further ones the autoencoder alone
    table_images: int | None = None  # of the attack tables; None as many as the comparison
    budget: Budget  # of the attack tables
    published_step: bool = False  # PGD's step there is Table 1's in every norm
    in_norm: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] = field(default_factory=dict)  # by data set
    further_rows: tuple[str, ...] = ()  # in tables of other norms and black boxes, beside the papers' and DiffPure's
    unseen_before: str = ""  # the classifier of Tables 6 and 7 on the first data set, of `larger`; "" for its own
    passes: int = 20  # that report there, and as many that select
    sensitivity: Mapping[str, tuple[Mapping[str, object], ...]]  # by row
    sensitivity_attacks: Family = "short"
    larger: Mapping[str, PretrainClassifier]  # `larger` and `other`, behind purifiers that were tuned for another one
    larger_elsewhere: Mapping[str, PretrainClassifier] = field(default_factory=dict)  # by further data set
    descent: Mapping[str, object] = field(default_factory=dict)
    pilot: Mapping[str, Any] = field(default_factory=dict)  # sizes, and by network the values that are tried; {}: none
    timing_repeats: int = 5
    eps: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by data set and norm
    analysis: Mapping[str, object] = field(default_factory=dict)
    sparse: Mapping[str, object] = field(default_factory=dict)  # where the analysis for Fig. 6 differs


def product(sizes: Sizes, job: str, config: Any, *, kind: str = "", **needs: Artifact) -> Artifact:
    """A product with the minutes that its kind takes at this scale."""
    return Artifact(job=job, config=config, minutes=_MINUTES.get(sizes.scale, {}).get(kind or job, 0.0), needs=needs)
