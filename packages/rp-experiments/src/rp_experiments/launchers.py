"""What runs jobs: this machine's GPUs or cores, or Slurm. Importing this imports neither torch nor submitit."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rp_experiments.jobs import Cluster, Job, Jobs
from rp_experiments.launch import cores, environment


def choose_jobs(cluster: Cluster, folder: Path, done: Callable[[str], bool] | None = None) -> Jobs:
    """The jobs of a folder, run as the settings say."""
    kinds: dict[str, type[Jobs]] = {"here": Jobs, "local": LocalJobs, "slurm": SlurmJobs}
    return kinds[cluster.launcher](cluster, folder, done)


class LocalJobs(Jobs):
    """Jobs side by side on this machine: each has GPUs, or cores, that no other one has."""

    def __init__(self, cluster: Cluster, folder: Path, done: Callable[[str], bool] | None = None) -> None:
        super().__init__(cluster, folder, done)
        self._taken: dict[str, list[tuple[int, ...]]] = {}
        self._children: dict[str, Any] = {}

    @cached_property
    def gpus(self) -> tuple[int, ...]:
        """This machine's, asked for when the first job starts."""
        return visible_gpus()

    @cached_property
    def shares(self) -> list[tuple[int, ...]]:
        """What one process of a job may have: a GPU, or some cores."""
        if self.gpus:
            return [(gpu,) for gpu in self.gpus]
        return _parts(sorted(os.sched_getaffinity(0)), self.cluster.max_parallel or cores())

    @property
    def most(self) -> int:
        """Jobs side by side."""
        return min(self.cluster.max_parallel or len(self.shares), len(self.shares))

    @property
    def room(self) -> int:
        """Shares that nobody has, as far as jobs may be side by side."""
        self._release()
        free = len(self.shares) - sum(map(len, self._taken.values()))
        return min(free, self.most - len(self._taken))

    def start(self, jobs: Sequence[Job]) -> None:
        """Start those for which there is room, in this order; a job takes as many shares as it has processes."""
        for job in jobs:
            free = [share for share in self.shares if all(share not in taken for taken in self._taken.values())]
            self._taken[job.name] = free[: job.ranks]
            self._submit(job, [number for share in free[: job.ranks] for number in share])

    def _submit(self, job: Job, numbers: Sequence[int]) -> None:
        """Start a job on GPUs, or cores, of these numbers."""
        from submitit import LocalExecutor

        executor = LocalExecutor(self.folder / "submitit")
        executor.update_parameters(timeout_min=self.cluster.timeout, tasks_per_node=job.ranks, signal_delay_s=90)
        if self.gpus:
            executor.update_parameters(gpus_per_node=len(numbers), visible_gpus=tuple(numbers))
        own = () if self.gpus or job.ranks > 1 else tuple(numbers)
        threads = cores() // self.most if self.gpus else len(numbers) // job.ranks
        with environment(OMP_NUM_THREADS=max(threads, 1)):
            started = executor.submit(replace(job, cores=own))
        self._children[job.name] = started
        where = {"launcher": "local", "id": started.job_id, "host": platform.node(), "since": _since(started.job_id)}
        self._write(job.name, where)

    def running(self, name: str) -> bool:
        """Whether the process that minds the job is there."""
        if child := self._children.get(name):
            return not child.done()
        record = self.record(name)
        here = record.get("launcher") == "local" and record["host"] == platform.node()
        return here and _since(record["id"]) == record["since"] != ""

    def _release(self) -> None:
        self._taken = {name: shares for name, shares in self._taken.items() if self.running(name)}


class SlurmJobs(Jobs):
    """Jobs of a Slurm cluster: what is started together is a job array; Slurm decides when each runs."""

    _asked, _known = -10.0, frozenset[str]()

    @property
    def room(self) -> int:
        """As many as there are: Slurm lets them wait."""
        return sys.maxsize

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit an array for each number of processes."""
        for ranks in sorted({job.ranks for job in jobs}):
            executor = self.executor(ranks)
            alike = [job for job in jobs if job.ranks == ranks]
            with executor.batch():
                submitted = [executor.submit(job) for job in alike]
            for job, one in zip(alike, submitted, strict=True):
                self._write(job.name, {"launcher": "slurm", "id": one.job_id})
        self._asked = -10.0

    def executor(self, ranks: int) -> Any:
        """submitit's, for jobs of so many processes a node."""
        from submitit import SlurmExecutor

        try:
            return self._told(SlurmExecutor(self.folder / "submitit", max_num_timeout=1000), ranks)
        except RuntimeError as error:
            raise ValueError(f"no Slurm here ({error}); take --launcher local or here") from None

    def script(self, job: Job) -> str:
        """The script that `sbatch` would get for a job alone; there need be no Slurm here."""
        from submitit import SlurmExecutor

        class Anywhere(SlurmExecutor):
            affinity = classmethod(lambda cls: 2)

        executor = self._told(Anywhere(self.folder / "submitit"), job.ranks)
        text: str = executor._make_submission_file_text(executor._submitit_command_str, job.name)
        return text

    def _told(self, executor: Any, ranks: int) -> Any:
        """An executor with this cluster's settings."""
        cluster, gpus = self.cluster, self.cluster.gpus_per_node
        more = dict(word.split("=", 1) for word in cluster.slurm)
        given = {
            "job_name": "rp",
            "time": cluster.timeout,
            "nodes": cluster.nodes if ranks > 1 else 1,
            "ntasks_per_node": ranks,
            "gpus_per_node": min(gpus, ranks) if gpus else None,
            "partition": cluster.partition or None,
            "array_parallelism": cluster.max_parallel or 256,
            "additional_parameters": more,
            "srun_args": ["--kill-on-bad-exit=1"],
        }
        executor.update_parameters(**{name: value for name, value in given.items() if value not in (None, {})})
        return executor

    def running(self, name: str) -> bool:
        """Whether Slurm knows the job: it waits, runs, or was queued again."""
        record = self.record(name)
        return record.get("launcher") == "slurm" and record["id"] in self._queue()

    def _queue(self) -> frozenset[str]:
        """The jobs that Slurm knows, asked at most every other second."""
        if time.monotonic() - self._asked > 2:
            command = ["squeue", "--noheader", "--array", "--format=%i"]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if said.returncode:
                raise OSError(f"squeue does not answer: {said.stderr.strip()}")
            self._known, self._asked = frozenset(said.stdout.split()), time.monotonic()
        return self._known


def visible_gpus() -> tuple[int, ...]:
    """The numbers of this machine's GPUs that this process may use, as the driver counts them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(int(word) for word in named.split(",") if word.strip().isdecimal())
    try:
        said = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ()
    return tuple(range(sum(line.startswith("GPU ") for line in said.stdout.splitlines())))


def _parts(numbers: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Numbers in so many parts of nearly equal length, none empty."""
    count = min(count, len(numbers))
    return [tuple(numbers[index::count]) for index in range(count)]


def _since(process: str) -> str:
    """When a process began, in the system's ticks; "" if there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if stat[0] == "Z" else stat[19]
