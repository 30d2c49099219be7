"""Jobs: independent pieces of work, here one after another, side by side on this machine, or on a Slurm cluster.

submitit starts them, and starts them again when they were taken away. What a job leaves says how it stands, so that a
later call finds the jobs of an earlier one: `jobs/NAME.json` where it runs, `jobs/NAME.failed` why it stopped without
success, `logs/NAME.log` its words. Importing this imports neither torch nor submitit.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rp_models.files import complete_file

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
    work: Callable[[], None]  # something that pickle can send
    again: Callable[[], None] | None = None  # the work of a later attempt; None for the same
    needs: frozenset[str] = frozenset()  # jobs whose products it takes
    ranks: int = 1  # processes on each node that share the work
    folder: Path = field(default_factory=Path.cwd)  # where its record is
    cores: tuple[int, ...] = ()  # that its first process may use; () for all

    @property
    def success(self) -> Path:
        """What says that it came to its end."""
        return self.folder / "jobs" / f"{self.name}.done"

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
        self.success.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log, _words_to(log):
            try:
                self.work()
                self.success.touch()
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

        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":  # after a node failed too
            self = self._later()
        environment = JobEnvironment()
        if environment.num_tasks > 1:
            group = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            if environment.num_nodes == 1:  # this machine may not know its own name
                os.environ["MASTER_ADDR"] = "127.0.0.1"
            if group.rank > 0:
                self.work()
                return
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        with _preemptible():
            self.here()

    def checkpoint(self) -> Any:
        """How submitit goes on after the job was taken away: with the same call, which finds its state on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self._later())

    def _later(self) -> "Job":
        return replace(self, work=self.again or self.work)


class Jobs:
    """The jobs of a folder, side by side where the cluster's settings say so.

    Args:
        cluster: where they run.
        folder: for their records, reached from every machine.
        done: whether the product of a job of that name is there; by default whether the job came to its end.
    """

    def __init__(self, cluster: Cluster, folder: Path, done: Callable[[str], bool] | None = None) -> None:
        self.cluster, self.folder = cluster, folder.resolve()
        self.records = self.folder / "jobs"
        self.done = done or (lambda name: (self.records / f"{name}.done").is_file())

    def run(self, jobs: Sequence[Job], ended: Callable[[str], None] = lambda name: None) -> dict[str, str]:
        """Do jobs, each after what it needs, the first in line first; one that fails stops only what needs it.

        Gives, by the job's name, what went wrong. Jobs of an earlier call that still run are waited for. `ended` is
        told of each that came to its end.
        """
        failed: dict[str, str] = {}
        running = {job.name for job in jobs if self.running(job.name)}
        waiting = [replace(job, folder=self.folder) for job in jobs if job.name not in running]
        while waiting or running:
            able = [job for job in waiting if all(map(self.done, job.needs))]
            if ready := able[: self.room]:
                waiting = [job for job in waiting if job not in ready]
                running |= {job.name for job in ready}
                _say(*(f"{job.name} ..." for job in ready))
                self.start(ready)
            if not (running or able):  # the rest needs something that failed
                break
            problems = {name: problem for name in running if (problem := self.problem(name)) is not None}
            _say(*(f"{name} {problem or 'is there'}" for name, problem in problems.items()))
            running -= problems.keys()
            failed |= {name: f"{name}: {problem}" for name, problem in problems.items() if problem}
            for name in problems.keys() - failed.keys():
                ended(name)
            if not problems:
                time.sleep(0.5)
        return failed

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


def _say(*lines: str) -> None:
    for line in lines:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


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
