"""What a plan will do before anything of it starts: its jobs, what each needs, and what is missing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rp_models.data.errors import DataError
from rp_models.files import complete_file

from rp_experiments import tables
from rp_experiments.artifacts import Artifact
from rp_experiments.jobs import Cluster, Job
from rp_experiments.launchers import SlurmJobs
from rp_experiments.papers.given import adopted
from rp_experiments.papers.graph import Graph
from rp_experiments.papers.ingredients import ingredients, missing_files


def forecast(graph: Graph, cluster: Cluster, adopt: Sequence[Path] = ()) -> "Forecast":
    """The jobs that make the missing products of a graph, and whether they can start.

    Finished runs that are adopted are no jobs.
    """
    there = adopted(adopt, graph.needed)
    artifacts = [artifact for artifact in graph.missing if artifact.name not in there]
    jobs = {job.name: job for job in graph.jobs(artifacts)}
    missing = missing_files(artifacts, graph.surroundings["root"])
    if cluster.launcher == "slurm" and cluster.gpus_per_node is None and graph.surroundings["device"] != "cpu":
        missing.append("GPUs: Slurm gives a job none that it does not ask for; add --gpus-per-node, or --device cpu")
    return Forecast(graph=graph, artifacts=artifacts, jobs=jobs, cluster=cluster, missing=missing)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The jobs that make the products of a graph that are not there."""

    graph: Graph
    artifacts: Sequence[Artifact]  # that are made, each after what it needs
    jobs: dict[str, Job]  # by the artifact's name
    cluster: Cluster
    missing: Sequence[str]  # what has to be put where, or said

    @property
    def problems(self) -> str:
        """What is missing before anything can start, a line each; "" if nothing is."""
        return "\n  ".join(["missing are", *self.missing]) if self.missing else ""

    def check(self) -> None:
        """Raise DataError if something is missing."""
        if self.problems:
            raise DataError(f"nothing is started; {self.problems}")

    def rows(self) -> list[tables.Row]:
        """One line a job."""
        return [self._row(one) for one in self.artifacts]

    def _row(self, artifact: Artifact) -> tables.Row:
        waiting = self.jobs.keys()
        items = [item.key for item in self.graph.items if artifact in item.needed(self.graph.plan)]
        return {
            "job": artifact.name,
            "of": described(artifact),
            "GPUs": self.jobs[artifact.name].ranks,
            "needs": ", ".join(need.name for need in artifact.needs.values() if need.name in waiting) or None,
            "for": ", ".join(items),
        }

    def __str__(self) -> str:
        lines = [tables.text(self.rows()), "", f"{len(self.artifacts)} jobs"]
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
