"""A run is a folder: resolved configuration, environment, metrics, checkpoints, figures, result."""

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp_models.files import abandoned, complete_file
from rp_models.training.lock import FolderLock, FolderLocked, lock_folder

if TYPE_CHECKING:
    from rp_models.training.distributed import Processes

PACKAGES = ("torch", "numpy", "pyautoattack", "rp-models", "rp-attacks", "rp-purify", "rp-dra", "rp-analysis")


class RunError(ValueError):
    """A run folder cannot be used: it holds another run, or something else."""


class RunFolder:
    """One run's files; each is written to a temporary name and renamed.

    `writes` tells whether this process keeps the times: of several that do one run, the first. Each of `listeners` is
    called with (stage, step, values) for each line of `metrics.jsonl`, after it is written.
    """

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self.listeners: list[Callable[[str, int, Mapping[str, float]], None]] = []
        self._lock: FolderLock | None = None

    @classmethod
    def open(
        cls, path: str | Path, config: Mapping[str, Any], *, resume: bool, processes: "Processes | None" = None
    ) -> "RunFolder":
        """`start` in a folder of that path."""
        folder = cls(path)
        folder.start(config, resume=resume, processes=processes)
        return folder

    def start(self, config: Mapping[str, Any], *, resume: bool, processes: "Processes | None" = None) -> None:
        """Start a run in a new or empty folder, or go on with the one that is there; no other process may do so now.

        Raises RunError if the folder holds a run and `resume` is off, a run of another configuration, or other files,
        or if another process is at work in it; Stopped in the other processes, if the first one cannot open it.

        Args:
            config: the resolved configuration, JSON values; must be the same when a run goes on.
            resume: go on if the folder holds this run; start if it holds nothing.
            processes: that do the run together: the first opens the folder and keeps the times.
        """
        config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
        if processes is None:
            self._claim(config, resume)
        else:
            self.writes = processes.main
            processes.rank_zero_first(lambda: self._claim(config, resume))

    def _claim(self, config: Mapping[str, Any], resume: bool) -> None:
        """Check and lock the folder, and write what a new run begins with."""
        there = self.path / "config.json"
        if there.exists():
            self._check(config, resume)
        elif self.path.is_dir() and any(not _unfinished(item) for item in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and holds no run; name another folder with --out")
        elif self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is not a folder; name another one with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock_folder(self.path)
        except FolderLocked as error:
            raise RunError(f"{error}; wait until it is done, or name another folder with --out") from None
        if not there.exists():
            self.write_json("environment.json", environment())
            self.write_json("config.json", config)
        self._sweep()

    def _check(self, config: Mapping[str, Any], resume: bool) -> None:
        """Refuse a folder with a run that shall not, or cannot, go on."""
        if not resume:
            raise RunError(f"{self.path} already holds a run; go on with --resume, or name another folder with --out")
        old = self.read_json("config.json")
        changed = list(_differences(old, config))
        if changed:
            shown = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise RunError(f"{self.path} holds a run of another configuration ({shown}); name another one with --out")

    def _sweep(self) -> None:
        """Remove what killed processes of this machine left behind; such a file can be as large as a checkpoint."""
        for file in filter(abandoned, self.path.rglob(".*.tmp")):
            file.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file, complete under its name or not at all."""
        return self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, complete under its name or not at all."""
        target = self.path / name
        with complete_file(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return target

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run. Raises RunError if it is damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise RunError(f"{self.path / name} is damaged ({error}); name another folder with --out") from error

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to the stage's entry in `stages.json`; those of a killed session are lost."""
        start = time.monotonic()
        try:
            yield
        finally:
            if self.writes:
                self.add_seconds(stage, time.monotonic() - start)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to a stage's entry in `stages.json`."""
        known = self.seconds()
        known[stage] = round(known.get(stage, 0.0) + seconds, 2)
        self.write_json("stages.json", known)

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each stage so far."""
        return dict(self.read_json("stages.json")) if (self.path / "stages.json").exists() else {}

    def memory(self) -> dict[str, Any]:
        """The micro-batches that were chosen for trainings, by stage; empty where none had to be."""
        files = sorted((self.path / "memory").glob("*.json"))
        return {file.stem: self.read_json(f"memory/{file.name}") for file in files}

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
        for listener in self.listeners:
            listener(stage, step, values)

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """The logged lines of a stage (or all), in order; a line cut off by a kill is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [record for record in _parsed(lines) if stage is None or record["stage"] == stage]

    def forget(self, stage: str, after: int) -> None:
        """Drop a stage's lines beyond step `after`: they will be written again."""
        kept = [r for r in self.metrics() if r["stage"] != stage or r["step"] <= after]
        if (self.path / "metrics.jsonl").exists():
            self.write_text("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in kept))


def environment() -> dict[str, Any]:
    """What the run was made with: versions, machine, commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the source that runs, with "+changes" where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changes = subprocess.run(
            [*command, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _unfinished(item: Path) -> bool:
    """Whether a file may lie in a new run's folder: hidden, or left by a start that was killed half way."""
    return item.name.startswith(".") or item.name == "environment.json"


def _parsed(lines: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON records among some lines."""
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """The leaves that differ, as `name: old there, new asked for`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield f"{name}: {old!r} there, {new!r} asked for"
