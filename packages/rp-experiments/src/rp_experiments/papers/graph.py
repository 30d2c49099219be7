"""The graph of products that items need, and the jobs that make those which are not there; does not import torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rp_experiments.artifacts import Artifact, Store, build, in_order
from rp_experiments.jobs import Cluster, Job, Jobs
from rp_experiments.launchers import choose_jobs
from rp_experiments.papers.item import Item
from rp_experiments.papers.parts import take_parts
from rp_experiments.papers.plan import SHARED, Plan


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What items of a plan need, and where it is made.

    Attributes:
        items: for which something is made.
        plan: of a scale.
        store: where products are kept.
        surroundings: of the runs that make them: device, cache, root.
        ranks: processes that share one product where its work can be shared.
    """

    items: Sequence[Item]
    plan: Plan
    store: Store
    surroundings: Mapping[str, Any]
    ranks: int = 1

    @cached_property
    def needed(self) -> list[Artifact]:
        """All products, each after what it needs."""
        return in_order(artifact for item in self.items for artifact in item.needed(self.plan))

    @property
    def missing(self) -> list[Artifact]:
        """Those that are not there."""
        return [artifact for artifact in self.needed if not self.store.has(artifact)]

    def jobs(self, artifacts: Sequence[Artifact]) -> list[Job]:
        """The jobs that make products."""
        return jobs_of(artifacts, self.store, self.surroundings, self.ranks)

    def launcher(self, cluster: Cluster) -> Jobs:
        """What runs them."""
        names = {artifact.name: artifact for artifact in self.needed}
        return choose_jobs(cluster, self.store.path, lambda name: self.store.has(names[name]))


def jobs_of(artifacts: Sequence[Artifact], store: Store, surroundings: Mapping[str, Any], ranks: int = 1) -> list[Job]:
    """The jobs that make artifacts, first those for which most others wait; several processes share where they can."""
    return [
        Job(
            name=artifact.name,
            work=partial(make, artifact, store.path, surroundings),
            needs=frozenset(need.name for need in artifact.needs.values()),
            ranks=ranks if artifact.job in SHARED else 1,
        )
        for artifact in sorted(artifacts, key=lambda one: -_chain(one, artifacts))
    ]


def make(artifact: Artifact, path: Path, surroundings: Mapping[str, Any]) -> None:
    """What a job does: make one artifact, alone or with the other processes of the job."""
    from rp_experiments.papers.makers import MAKERS
    from rp_experiments.run import open_run

    store = Store(path)
    with open_run(path, resume=True, quiet=True, **surroundings) as run:
        build(artifact, store, MAKERS[artifact.job], run, claimed=partial(take_parts, artifact, store))


def _chain(artifact: Artifact, waiting: Sequence[Artifact]) -> float:
    """Minutes of an artifact and of the longest chain of others that wait for it."""
    after = (_chain(one, waiting) for one in waiting if artifact.name in {need.name for need in one.needs.values()})
    return artifact.minutes + max(after, default=0.0)
