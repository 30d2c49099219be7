"""Jobs: independent pieces of work, here one after another, side by side on this machine, or on a Slurm cluster.

submitit starts them, and starts them again when they were taken away. What a job leaves says how it stands, so that a
later call finds the jobs of an earlier one: `jobs/NAME.json` where it runs, `jobs/NAME.failed` why it stopped without
success, `logs/NAME.log` its words. Importing this imports neither torch nor submitit.
"""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rp_models.files import complete_file

from rp_experiments.launch import cores

_EXPECTED = (ValueError, OSError)  # whose message says enough


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where jobs run, and what one job takes."""

    launcher: Literal["here", "local", "slurm"] = "here"  # in turn, side by side on this machine, or on a cluster
    gpus_per_node: int | None = None  # of a job whose work several processes can share; by default 1 where GPUs are
    nodes: int = 1  # of such a job
    partition: str = ""  # of the cluster; by default the cluster's own choice
    timeout: int = 24 * 60  # minutes after which Slurm takes a job away; it is queued again and goes on
    max_parallel: int | None = None  # jobs side by side; by default all GPUs, or cores, or as many as Slurm lets run
    slurm: tuple[str, ...] = ()  # further NAME=VALUE of sbatch, such as account=lab mem=64G; or --slurm.account=lab

    def __post_init__(self) -> None:
        """Refuse what no launcher can do."""
        for name in ("nodes", "timeout", "gpus_per_node", "max_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.nodes > 1 and self.launcher != "slurm":
            raise ValueError(f"--nodes {self.nodes} needs --launcher slurm; {self.launcher} is this machine alone")
        for word in self.slurm:
            if not all(word.partition("=")):
                raise ValueError(f"--slurm expects NAME=VALUE, got {word!r}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A piece of work that needs no other job's memory; called in the process, or the processes, that do it."""

    name: str
    work: Callable[..., None]  # a function of a module
    arguments: tuple[Any, ...] = ()
    ranks: int = 1  # processes on each node that share the work
    folder: Path = field(default_factory=Path.cwd)  # where its record is
    cores: tuple[int, ...] = ()  # that its first process may use; () for all

    @property
    def failure(self) -> Path:
        """Where stands what went wrong."""
        return self.folder / "jobs" / f"{self.name}.failed"

    @property
    def log(self) -> Path:
        """Where its words are."""
        return self.folder / "logs" / f"{self.name}.log"

    def here(self) -> None:
        """Do it in this process, its words in its log; an error is written down, not raised."""
        self.failure.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log, _words_to(log):
            try:
                self.work(*self.arguments)
            except Exception as error:  # a fault of the program too: other jobs shall go on
                traceback.print_exc()
                known = isinstance(error, _EXPECTED) or type(error).__name__ == "Interrupted"
                said = str(error) if known else f"{type(error).__name__}: {error} (see {self.log})"
                with complete_file(self.failure) as file:
                    file.write_text(said, encoding="utf-8")

    def __call__(self) -> None:
        """What submitit calls in each process of the job."""
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        environment = JobEnvironment()
        if environment.num_tasks > 1:
            group = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            if environment.num_nodes == 1:  # this machine may not know its own name
                os.environ["MASTER_ADDR"] = "127.0.0.1"
            if group.rank > 0:
                self.work(*self.arguments)
                return
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        with _preemptible():
            self.here()

    def checkpoint(self) -> Any:
        """How submitit goes on after the job was taken away: with the same call, which finds its state on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Jobs:
    """The jobs of a folder, side by side where the cluster's settings say so.

    Args:
        cluster: where they run.
        folder: for their records, reached from every machine.
        done: whether the product of a job of that name is there.
    """

    def __init__(self, cluster: Cluster, folder: Path, done: Callable[[str], bool]) -> None:
        self.cluster, self.folder, self.done = cluster, folder.resolve(), done
        self.records = self.folder / "jobs"

    @property
    def room(self) -> int:
        """How many jobs may be started now."""
        return 1

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs; those of `here` are over when this returns."""
        for job in jobs:
            job.here()

    def problem(self, name: str) -> str | None:
        """What went wrong with a job that was started: "" for nothing, None while it runs."""
        if self.done(name):
            return ""
        if self.running(name):
            return None
        failure = self.records / f"{name}.failed"
        return failure.read_text(encoding="utf-8") if failure.is_file() else self._last_words(name)

    def running(self, name: str) -> bool:
        """Whether the job is waiting or at work, started by this call or an earlier one."""
        return False

    def record(self, name: str) -> dict[str, Any]:
        """Where the job was started last; empty if it never was."""
        path = self.records / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _write(self, name: str, where: Mapping[str, Any]) -> None:
        """Note where a job runs."""
        with complete_file(self.records / f"{name}.json") as file:
            file.write_text(json.dumps(where), encoding="utf-8")

    def _last_words(self, name: str) -> str:
        """The end of the log of a job that left no word about its failure."""
        submitit = (self.folder / "submitit").glob(f"{self.record(name).get('id', 'none')}_*_log.err")
        logs = [self.folder / "logs" / f"{name}.log", *sorted(submitit)]
        ends = [path.read_text(encoding="utf-8", errors="replace").splitlines()[-3:] for path in logs if path.is_file()]
        said = " / ".join(line for lines in ends for line in lines)
        return f"ended without its product; last words: {said or 'none'}"


@contextlib.contextmanager
def _words_to(file: Any) -> Iterator[None]:
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


@contextlib.contextmanager
def _preemptible() -> Iterator[None]:
    """Take submitit's signal as a request: a training writes its state first; anything else is left at once.

    All other work keeps what it has done in complete files.
    """
    from rp_models.training.preemption import Preempted, ask_to_stop
    from submitit import JobEnvironment

    number = JobEnvironment._usr_sig()
    requeue = signal.getsignal(number)
    assert callable(requeue), "submitit listens for its signal before it calls the job"

    def asked(received: int, frame: Any) -> None:
        if ask_to_stop():
            signal.signal(signal.SIGALRM, requeue)
            signal.alarm(60)  # a step that takes longer is left too
        else:
            requeue(received, frame)

    signal.signal(number, asked)
    try:
        yield
    except Preempted:
        signal.alarm(0)
        requeue(number, None)


def slurm_words(words: Sequence[str]) -> list[str]:
    """A command line whose `--slurm.NAME=VALUE` stand together behind `--slurm`, as the parser wants them."""
    kept: list[str] = []
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--slurm."):
            kept.append(word)
            continue
        name, equals, value = word.removeprefix("--slurm.").partition("=")
        found.append(f"{name}={value if equals else next(rest, '')}")
    return [*kept, "--slurm", *found] if found else kept


def choose_jobs(cluster: Cluster, folder: Path, done: Callable[[str], bool]) -> Jobs:
    """The jobs of a folder, run as the settings say."""
    return _KINDS[cluster.launcher](cluster, folder, done)


class LocalJobs(Jobs):
    """Jobs side by side on this machine: each has GPUs, or cores, that no other one has."""

    def __init__(self, cluster: Cluster, folder: Path, done: Callable[[str], bool]) -> None:
        super().__init__(cluster, folder, done)
        self.gpus = visible_gpus()
        count = cluster.max_parallel or (len(self.gpus) or cores())
        self.shares = [(gpu,) for gpu in self.gpus] if self.gpus else _parts(sorted(os.sched_getaffinity(0)), count)
        self.most = min(count, len(self.shares))
        self._taken: dict[str, list[tuple[int, ...]]] = {}
        self._children: dict[str, Any] = {}

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
        with _environment(OMP_NUM_THREADS=str(max(threads, 1))):
            started = executor.submit(replace(job, folder=self.folder, cores=own))
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
            alike = [replace(job, folder=self.folder) for job in jobs if job.ranks == ranks]
            with executor.batch():
                submitted = [executor.submit(job) for job in alike]
            for job, one in zip(alike, submitted, strict=True):
                self._write(job.name, {"launcher": "slurm", "id": one.job_id})
        self._asked = -10.0

    def executor(self, ranks: int) -> Any:
        """submitit's, for jobs of so many processes a node."""
        from submitit import SlurmExecutor

        cluster, gpus = self.cluster, self.cluster.gpus_per_node
        more = dict(word.split("=", 1) for word in cluster.slurm)
        try:
            executor = SlurmExecutor(self.folder / "submitit", max_num_timeout=1000)
        except RuntimeError as error:
            raise ValueError(f"no Slurm here ({error}); take --launcher local or here") from None
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


_KINDS: dict[str, type[Jobs]] = {"here": Jobs, "local": LocalJobs, "slurm": SlurmJobs}


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


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Other environment variables for processes that start in the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
