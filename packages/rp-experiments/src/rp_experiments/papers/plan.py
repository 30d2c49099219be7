"""The plan of a scale: which products its items are made from; importing this does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rp_experiments.artifacts import Artifact, data_sets, in_order
from rp_experiments.papers.classifier_products import classifier_products
from rp_experiments.papers.purifier_products import purifier_products
from rp_experiments.papers.sizes import Sizes
from rp_experiments.papers.tiers import Tier

SHARED = frozenset({"train_dra", "sweep", "compare", "evaluate"})  # jobs whose work several processes can share


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The artifacts of one scale, each made for several items; several of a kind by data set, or by recipe."""

    scale: str
    tier: Tier = field(default_factory=Tier)  # of the scale, that is made
    runs: Mapping[str, Artifact]  # of train_dra.py; the first one is analysed
    others: Mapping[str, Artifact]  # its settings with the methods of Table 2 of the DRA paper that no run has
    noisy: Artifact  # the same with the noisy-input encoder as the alignment's target
    probe: Artifact
    analysis: Artifact  # of analyze.py
    sparse: Artifact  # of analyze.py, whose sparse autoencoders Fig. 6 shows
    representations: Artifact  # features of the run's classifiers and diffusion model
    sweep: Artifact  # over the alignment's weight
    zoo: Mapping[str, Artifact]  # RobustBench's models beside a diffusion model, by data set
    rivals: Mapping[str, Artifact]  # published classifiers under AutoAttack: `Pang et al. 2022, cifar10`
    adversarial: Mapping[str, Artifact]  # further runs by data set, for Table 3 of the MAE-Pure paper alone
    pilots: Mapping[str, Artifact]  # of fine-tuning values, by network and data set: `rmae, cifar10`
    networks: Mapping[str, Artifact]  # behind the purifiers; the first one is that of figures and theorems
    comparisons: Mapping[str, Artifact]  # of compare_purifiers.py
    norms: Mapping[str, Artifact]  # attacks in L2 and L1
    unseen: Mapping[str, Artifact]  # the same for Tables 6 and 7, the first one perhaps behind another classifier
    black_box: Mapping[str, Artifact]  # attacks without gradients
    classifiers: Artifact  # attacks on purifiers behind other classifiers
    before_larger: Mapping[str, Artifact]  # behind a larger one; the first is `classifiers`
    sensitivity: Artifact  # attacks on other settings of the purifiers
    views: Mapping[str, Artifact]  # of analyze_purifier.py
    timings: Mapping[str, Artifact]
    descent: Artifact  # Theorem J.1

    def includes(self, artifact: Artifact) -> bool:
        """Whether a product, and all that it needs, is of the plan's tier."""
        return all(one.name not in self._beyond and self._on_data(one) for one in in_order([artifact]))

    @cached_property
    def _beyond(self) -> frozenset[str]:
        """The names of products that wait for a higher tier: runs, and kinds of products."""
        tier = self.tier
        runs = [run for name, run in self.runs.items() if tier.methods and name not in tier.methods]
        kinds = [getattr(self, name) for name in tier.without]
        several = [one for kind in kinds for one in (kind.values() if isinstance(kind, Mapping) else [kind])]
        return frozenset(one.name for one in (*runs, *several))

    def _on_data(self, artifact: Artifact) -> bool:
        return not self.tier.data or {*data_sets(artifact)} <= {*self.tier.data}


def build(sizes: Sizes) -> Plan:
    """The plan of a scale."""
    return Plan(scale=sizes.scale, tier=sizes.tier, **classifier_products(sizes), **purifier_products(sizes))
