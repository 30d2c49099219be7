"""What a plan will take before anything of it starts: hours, memory and disk of each job, and what is missing."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rp_models.data.errors import DataError
from rp_models.files import complete_file

from rp_experiments import tables
from rp_experiments.artifacts import Artifact
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.products import Cost, cost_of
from rp_experiments.jobs import Cluster, Job
from rp_experiments.launchers import SlurmJobs
from rp_experiments.papers.given import adopted
from rp_experiments.papers.graph import Graph
from rp_experiments.papers.ingredients import ingredients, missing_files


def forecast(graph: Graph, cluster: Cluster, card: Card, adopt: Sequence[Path] = ()) -> "Forecast":
    """What it takes to make the missing products of a graph on a kind of GPU, and whether that can start.

    Finished runs that are adopted take nothing.
    """
    there = adopted(adopt, graph.needed)
    artifacts = [artifact for artifact in graph.missing if artifact.name not in there]
    jobs = {job.name: job for job in graph.jobs(artifacts)}
    missing = missing_files(artifacts, graph.surroundings["root"])
    if cluster.launcher == "slurm" and cluster.gpus_per_node is None and graph.surroundings["device"] != "cpu":
        missing.append("GPUs: Slurm gives a job none that it does not ask for; add --gpus-per-node, or --device cpu")
    return Forecast(graph=graph, artifacts=artifacts, jobs=jobs, cluster=cluster, card=card, missing=missing)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The jobs that make the products of a graph that are not there."""

    graph: Graph
    artifacts: Sequence[Artifact]  # that are made, each after what it needs
    jobs: dict[str, Job]  # by the artifact's name
    cluster: Cluster
    card: Card  # GPU for which hours and memory are counted
    missing: Sequence[str]  # what has to be put where, or said

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """By the artifact's name, of as many GPUs as its job has processes."""
        return {one.name: cost_of(one, card=self.card, cards=self.jobs[one.name].ranks) for one in self.artifacts}

    @property
    def hours(self) -> float:
        """GPU-hours of all jobs."""
        return sum(cost.hours * self.jobs[name].ranks for name, cost in self.costs.items())

    @property
    def longest(self) -> float:
        """Hours of the longest chain of jobs that need each other: no number of GPUs is quicker."""
        ends: dict[str, float] = {}
        for one in self.artifacts:
            before = max((ends.get(need.name, 0.0) for need in one.needs.values()), default=0.0)
            ends[one.name] = before + self.costs[one.name].hours
        return max(ends.values(), default=0.0)

    @property
    def disk(self) -> float:
        """Bytes that the products will take."""
        return sum(cost.disk for cost in self.costs.values())

    @property
    def problems(self) -> str:
        """What is missing before anything can start, a line each; "" if nothing is."""
        path = self.graph.store.path.absolute()
        there = next(folder for folder in (path, *path.parents) if folder.is_dir())
        needed, free = self.disk / 1e9, shutil.disk_usage(there).free / 1e9
        room = f"disk: {needed:.0f} GB are needed, {free:.0f} GB are free in {there}; name another folder with --out"
        found = [*self.missing, *([room] if needed > free else [])]
        return "\n  ".join(["missing are", *found]) if found else ""

    def check(self) -> None:
        """Raise DataError if something is missing."""
        if self.problems:
            raise DataError(f"nothing is started; {self.problems}")

    def rows(self) -> list[tables.Row]:
        """One line a job."""
        return [self._row(one) for one in self.artifacts]

    def _row(self, artifact: Artifact) -> tables.Row:
        cost, waiting = self.costs[artifact.name], self.jobs.keys()
        items = [item.key for item in self.graph.items if artifact in item.needed(self.graph.plan)]
        counted = cost.hours > 0 or not cost.missing
        return {
            "job": artifact.name,
            "of": described(artifact),
            "GPUs": self.jobs[artifact.name].ranks,
            "hours": _figure(cost.hours) if counted else None,
            "GiB a GPU": _figure(cost.memory / 2**30) + (" !" if cost.memory > self.card.usable else "")
            if counted
            else None,
            "disk GB": _figure(cost.disk / 1e9) if counted else None,
            "needs": ", ".join(need.name for need in artifact.needs.values() if need.name in waiting) or None,
            "not counted": ", ".join(cost.missing) or None,
            "for": ", ".join(items),
        }

    def __str__(self) -> str:
        room = f"{self.card.usable / 2**30:.0f} GiB that one {self.card.name} has to plan with"
        lines = [
            tables.text(self.rows()),
            "",
            f"{len(self.artifacts)} jobs: at most {self.hours:.0f} GPU-hours of {self.card.name} (counted) and "
            f"{self.disk / 1e9:.0f} GB of disk; at least {self.longest:.0f} hours, along jobs that wait for others",
        ]
        if some := sum(bool(cost.missing) for cost in self.costs.values()):
            lines.append(f"{some} of the jobs are not counted, or not in full, and missing in these sums")
        if any(cost.memory > self.card.usable for cost in self.costs.values()):
            lines.append(f"!: more than the {room}")
        if fetched := sorted({one.name for one in ingredients(self.artifacts) if one.source == "downloaded"}):
            lines.append(f"downloaded when first used; nodes without network want them before: {', '.join(fetched)}")
        return "\n".join(lines)

    def write(self) -> Path:
        """Write the jobs' scripts, if they are Slurm's, the table, and all settings; gives their folder."""
        folder, slurm = self.graph.store.path / "plan", SlurmJobs(self.cluster, self.graph.store.path)
        settings = {one.name: asdict(one.config) for one in self.artifacts}
        written = {
            "plan.txt": f"{self}\n{self.problems}\n",
            "settings.json": json.dumps(settings, indent=2, default=str) + "\n",
        }
        if self.cluster.launcher == "slurm":
            written |= {f"{name}.sh": slurm.script(job) for name, job in self.jobs.items()}
        for name, text in written.items():
            with complete_file(folder / name) as file:
                file.write_text(text, encoding="utf-8")
        return folder


def described(artifact: Artifact) -> str:
    """What tells a product from others of its kind: data set, network, methods or roles."""
    config: Any = artifact.config
    words = " ".join(getattr(config, "method", ()) or getattr(config, "roles", ()))
    words = words or str(getattr(config, "network", ""))  # of a pilot
    config = getattr(config, "models", getattr(config, "comparison", config))
    network = getattr(getattr(config, "classifier", ""), "network", "")
    return ", ".join(filter(None, [getattr(config, "data", getattr(config, "base", "")), network, words]))


def _figure(value: float) -> str:
    """Two digits, and no fractions of large numbers."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
