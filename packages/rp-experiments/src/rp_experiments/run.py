"""A run: its folder, where and with whom the work is done, and what is there already."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from rp_models.precision import use
from rp_models.settings import InferenceSettings
from rp_models.training import (
    ALONE,
    BaseTrainer,
    Processes,
    Progress,
    ProgressBar,
    RunFolder,
    init_distributed,
    train_stage,
)
from rp_models.training.devices import choose_device, describe_device
from rp_models.training.tensorboard import TensorBoards
from torch import distributed

from rp_experiments.content import inputs

T = TypeVar("T")
Save: TypeAlias = Literal["auto", "epoch"]
CACHE = Path("runs/cache")
_COUNTER = itertools.count()  # of shared pieces of work: the same in all processes of a run


@dataclass(kw_only=True)
class Run:
    """Where a job works and with whom; nothing in it changes a number.

    Sent to another process, it is that process's own: alone, and silent.
    """

    folder: RunFolder
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    processes: Processes = ALONE  # that share the work
    cache: Path = CACHE  # networks and images that other runs made
    root: Path | None = None  # folder of the data sets; None for the usual places
    resume: bool = False  # whether a run that is there may go on
    compiled: bool = False  # whether attacked classifiers are compiled; numbers move by rounding, as by devices
    save: Save = "auto"  # when the state of a training is written: now and then, or after each epoch
    progress: Progress = field(default_factory=Progress)
    config: Any = None  # what the folder was claimed for
    memory: dict[str, Any] = field(default_factory=dict)  # by stage, the micro-batch chosen for a training to come
    boards: TensorBoards | None = None  # where the metrics of this run, and of those inside it, are drawn
    claimed: Callable[[], None] | None = None  # what the first process does as soon as the folder is taken

    @property
    def main(self) -> bool:
        """Whether this process writes files, prints and shows progress."""
        return self.processes.main

    @property
    def path(self) -> Path:
        """The folder's."""
        return self.folder.path

    def claim(self, config: Any) -> "Run":
        """Take the folder for a configuration, new or to go on with; RunError if it holds another, or is in use."""
        self.config = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
        if files := inputs(self.config):  # a file that was replaced makes another run
            self.config = {**self.config, "inputs": files}
        self.folder.start(self.config, resume=self.resume, processes=self.processes)
        if self.boards is not None and self.main:
            self.boards.watch(self.folder)
        if self.claimed is not None:
            self.first(self.claimed)
        return self

    def inside(self, path: Path) -> "Run":
        """The same surroundings in another folder, whose run goes on if it is there."""
        folder = RunFolder(path, writes=self.main)
        return replace(self, folder=folder, resume=True, config=None, memory={}, claimed=None)

    def alone(self) -> "Run":
        """The same run for this process alone, while the others wait for it in `first`."""
        return replace(self, processes=ALONE)

    def first(self, work: Callable[[], T]) -> T | None:
        """Let the first process work while the others wait; None in these. In the work, this run is alone."""
        return self.processes.rank_zero_first(self._by_itself(work))

    def _by_itself(self, work: Callable[[], T]) -> Callable[[], T]:
        """The work, during which this run is alone."""
        together = self.processes

        def by_itself() -> T:
            self.processes = ALONE
            try:
                return work()
            finally:
                self.processes = together

        return by_itself

    def everywhere(self, work: Callable[[], T]) -> T:
        """What the first process worked out, in all of them; something that pickle can send."""
        return self.processes.everywhere(self._by_itself(work))

    def has(self, name: str) -> bool:
        """Whether a file is there; the first process decides."""
        return self.everywhere(lambda: (self.path / name).exists())

    def once(
        self, name: str, make: Callable[[], Any], *, stage: str | None = None, together: bool = False, said: str = ""
    ) -> Any:
        """A file of the run, made unless it is there: the value of a JSON file, the path of any other.

        `make` gives the value of a JSON file and writes any other itself; seconds count for `stage`, by default the
        file's stem ("": `make` counts them); what is `said` is printed before. The first process works unless all do it
        together.
        """
        path, is_json = self.path / name, name.endswith(".json")

        def write() -> None:
            self.folder.write_json(name, make())

        work = write if is_json and not together else make
        if not self.has(name):
            if said:
                print(f"{said} ...", file=sys.stderr, flush=True)
            with nullcontext() if stage == "" else self.timed(stage or path.stem):
                found = work() if together else self.first(work)
            if together and is_json:
                self.first(lambda: self.folder.write_json(name, found))
            self.processes.wait()
        return json.loads(path.read_text(encoding="utf-8")) if is_json else path

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Count the seconds of a block for a stage; in the first process."""
        return self.folder.timed(stage)

    def train(self, trainer: BaseTrainer, *, stage: str, steps: int, seed: int, **options: Any) -> None:
        """Train to the end of a stage, together, from wherever it was stopped; options as of `train_stage`."""
        every = trainer.steps_per_epoch if self.save == "epoch" else None
        options = {"identity": {"config": self.config}, "save_every": every, **options}
        if chosen := self.memory.pop(stage, None):
            self.first(lambda: self.folder.write_json(f"memory/{stage}.json", chosen))
        with self.timed(stage):
            train_stage(
                trainer,
                stage=stage,
                steps=steps,
                folder=self.folder,
                seed=seed,
                progress=self.progress,
                processes=self.processes,
                **options,
            )

    def share(self, items: Sequence[T]) -> Iterator[T]:
        """The items that are this process's: each takes the next one that none has begun; at the end all wait."""
        name, count = f"share {next(_COUNTER)}", itertools.count()
        if self.processes.count > 1:
            store = distributed.distributed_c10d._get_default_store()
            count = (int(store.add(name, 1)) - 1 for _ in itertools.count())  # type: ignore[assignment]
        for number in count:
            if number >= len(items):
                break
            yield items[number]
        self.processes.wait()

    def finish(self, result: Mapping[str, Any], name: str = "result.json") -> dict[str, Any]:
        """Write the result, with configuration, environment and seconds; give what it holds."""
        whole = {
            **result,
            "config": json.loads(json.dumps(self.config)),
            "device": describe_device(self.device),
            "environment": self.folder.read_json("environment.json"),
            "seconds": self.folder.seconds(),
            **({"memory": chosen} if (chosen := self.folder.memory()) else {}),
        }
        self.first(lambda: self.folder.write_json(name, whole))
        return whole

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets."""
        return {
            **self.__dict__,
            "folder": RunFolder(self.path, writes=False),
            "processes": ALONE,
            "progress": Progress(),
            "boards": None,
        }


@contextmanager
def open_run(
    out: Path,
    *,
    device: str = "auto",
    cache: Path = CACHE,
    root: Path | None = None,
    resume: bool = False,
    save: Save = "auto",
    quiet: bool = False,
    boards: Path | None = None,
) -> Iterator[Run]:
    """The run of a folder that is not claimed yet; joins the processes that were started together, once.

    The metrics of all runs in it are also drawn in `boards`, for TensorBoard.
    """
    chosen = choose_device(device)
    use(InferenceSettings())  # a job says what else it wants
    with init_distributed(chosen) as processes:
        progress: Progress = ProgressBar() if processes.main and not quiet else Progress()
        run = Run(
            folder=RunFolder(out, writes=processes.main),
            device=chosen,
            processes=processes,
            cache=cache,
            root=root,
            resume=resume,
            save=save,
            progress=progress,
            boards=TensorBoards(boards, out / "products") if boards else None,
        )
        try:
            yield run
        finally:
            progress.finish()
            if run.boards:
                run.boards.close()
