"""What the apps' command lines have in common; importing this does not import torch."""

import errno
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

import tyro

from rp_experiments import launch
from rp_experiments.estimate.cards import CARDS
from rp_experiments.jobs import Cluster, Job, slurm_words
from rp_experiments.purifier_options import REGISTRY, check_presets

# A thread of torch's pool that has nothing to do sleeps instead of spinning: on a machine that does anything else at
# the same time, small networks were 30 times slower with spinning threads. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if os.environ.get("NO_COLOR"):
    os.environ["TERM"] = "dumb"  # tyro asks for the terminal alone

_FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}  # what a full disk says
_GO_ON = "what was written before is complete; free some space, and go on with --resume"


def choice(names: Iterable[str]) -> Any:
    """Marks an option, inside of `Annotated`, that is one of these names."""
    known = tuple(names)
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(known)}}}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value in known,
        str_from_instance=lambda value: [value],
        choices=known,
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all apps can be told; an app adds its `config`, and a `recipe` where it has some."""

    out: Path | None = None  # the run's folder; by default runs/APP/NAME, named after recipe or model
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    estimate: bool = False  # say what the run will take (operations, memory, disk, hours) and stop
    measure: bool = False  # with --estimate: time twenty real steps of each training on this machine's device
    card: Annotated[str, choice(CARDS)] = "H100"  # for which the estimate is made
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    cache: Path = Path("runs/cache")  # networks and images that other runs made

    passed: ClassVar[tuple[str, ...]] = ()  # options that the job takes by their names, beside `config` and run

    @property
    def name(self) -> str:
        """What the run's folder is called where no other is named."""
        return str(getattr(self, "recipe", "run"))

    @property
    def settings(self) -> Any:
        """What determines the numbers, as JSON."""
        config: Any = getattr(self, "config", None)
        return asdict(config) if config is not None else {}

    def check(self) -> None:
        """Raise a ValueError if something is missing; nothing heavy is imported, nothing written yet."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Options):
    """Those of apps whose work several processes can share."""

    # processes of this machine that share the work; by default the app's choice. torchrun starts those of several
    # machines. Moves numbers by rounding at most
    processes: int | None = None
    # when the state of a training is written: auto (after 20 s, then rarer, at the latest every ten minutes) or epoch
    save_state: Literal["auto", "epoch"] = "auto"
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=Cluster)

    default_processes: ClassVar[int] = 1  # an app overrides it, by a property where its settings decide


Recipes = Mapping[str, Callable[[], Any]]
"""Functions that make a configuration, by name; the first is the default."""
T = TypeVar("T")


def main(options: type[Options], job: str, recipes: Recipes | None = None) -> int:
    """An app: read the options of this call, open the run, do the job; gives the exit status. See `start`."""
    return guarded(lambda: start(parse(options, recipes), job))


def parse(options: type[T], recipes: Recipes | None = None, words: Sequence[str] | None = None) -> T:
    """The options of this call: the chosen recipe's settings, changed by what stands on the command line."""
    words = slurm_words(sys.argv[1:] if words is None else words)
    try:
        if not recipes:
            found = tyro.cli(options, args=words, registry=REGISTRY)
        else:
            recipe = _recipe(words, tuple(recipes))
            default = options(recipe=recipe, config=recipes[recipe]())  # type: ignore[call-arg]
            found = tyro.cli(options, args=words, default=default, registry=REGISTRY)
        check_presets(words, found)
        return found
    except ValueError as error:
        fail(str(error))


def start(options: Options, job: str) -> None:
    """Print the settings, or check them and do a job, `MODULE:FUNCTION` of this package, in a run of them.

    The job is imported only to be done, and torch with it.
    """
    if options.dry_run:
        print_json(options.settings)
        return
    if options.measure and not options.estimate:
        raise ValueError("--measure times steps for --estimate; give both, or neither")
    if options.estimate:
        print(_estimated(options, job))
        return
    options.check()
    out = folder(options)
    if first_process():
        print(f"run folder: {out}", file=sys.stderr, flush=True)
    surroundings = {"device": options.device, "cache": options.cache, "root": options.data_root}
    surroundings |= {"save": options.save_state} if isinstance(options, SharedOptions) else {}
    passed = {name: getattr(options, name) for name in options.passed}
    call = Call(job, getattr(options, "config", None), passed, out, surroundings, options.resume)
    cluster = getattr(options, "cluster", Cluster())
    if cluster.launcher != "here" and "cluster" not in options.passed:
        _submit(call, cluster, cluster.gpus_per_node or _processes(options))
    else:
        with launch.ranks(_processes(options)):
            call()
    if first_process():
        print(f"\neverything is in {out}/", file=sys.stderr, flush=True)


def _estimated(options: Options, job: str) -> Any:
    """What a job will take on as many cards as it has processes."""
    from rp_models.training import RunFolder

    from rp_experiments.run import Run

    run = Run(folder=RunFolder(folder(options), writes=False), cache=options.cache, root=options.data_root)
    cluster = getattr(options, "cluster", Cluster())
    given = getattr(options, "processes", None) if isinstance(options, SharedOptions) else None
    cards = cluster.gpus_per_node or given or 1
    passed = {name: getattr(options, name) for name in options.passed}
    config = getattr(options, "config", None)
    estimate = pkgutil.resolve_name("rp_experiments.estimate.apps:estimate")
    found = estimate(job, config, run, card=CARDS[options.card], cards=cards, **passed)
    if not options.measure:
        return found
    from rp_models.training.devices import choose_device

    run.device = choose_device(options.device)
    return pkgutil.resolve_name("rp_experiments.estimate.measuring:measured")(job, config, run, found)


@dataclass(frozen=True)
class Call:
    """A job, `MODULE:FUNCTION` of this package, and what it is called with; torch is imported by the call."""

    job: str
    config: Any
    passed: Mapping[str, Any]
    out: Path
    surroundings: Mapping[str, Any]  # of the run
    resume: bool = False

    def __call__(self) -> None:
        """Do it in a run, alone or with the other processes."""
        from rp_experiments.run import open_run

        with open_run(self.out, resume=self.resume, **self.surroundings) as run:
            pkgutil.resolve_name(f"rp_experiments.{self.job}")(self.config, run, **self.passed)


def _submit(call: Call, cluster: Cluster, ranks: int) -> None:
    """Let a launcher do a job, and wait for it; it goes on by itself when it was taken away.

    Its record is beside the run's folder, which is the job's own.
    """
    from rp_experiments.launchers import choose_jobs

    records = call.out.with_name(f"{call.out.name}.job").resolve()
    job = Job(name="job", work=call, again=replace(call, resume=True), ranks=ranks, folder=records)
    failed = choose_jobs(cluster, records).run([job])
    print(job.log.read_text(encoding="utf-8") if job.log.is_file() else "", end="")
    if failed:
        raise ValueError(failed["job"])


def folder(options: Options) -> Path:
    """Where the run lies: the folder named, or `runs/APP/NAME`."""
    return options.out or Path("runs") / Path(sys.argv[0]).stem / options.name


def guarded(work: Callable[[], None]) -> int:
    """Work, and turn what a user can cause into one sentence and an exit status.

    0 if all went well, 2 for bad input or a disk that cannot be written, 130 for an interrupt. With RP_TRACEBACK=1 in
    the environment, errors show where they come from.
    """
    try:
        try:
            work()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if first_process():
            print("\ninterrupted; go on with --resume", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("RP_TRACEBACK"):
            raise
        kind = type(error).__name__
        if kind == "Stopped":  # the first of several processes has said why
            return 2
        if isinstance(error, RuntimeError) and kind not in ("Interrupted", "DeviceError"):
            raise
        full = getattr(error, "errno", None) in _FULL or any(word in str(error) for word in _FULL.values())
        fail(f"{error}; {_GO_ON}" if full else str(error))
    return 0


def fail(message: str) -> NoReturn:
    """Print one sentence and exit with status 2; of several processes, all but the first say which one they are."""
    where = "" if first_process() else f" in process {os.environ['RANK']}"
    print(f"error{where}: {message}", file=sys.stderr)
    raise SystemExit(2)


def first_process() -> bool:
    """Whether this is the only process, or the first of several that share the work."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2, default=str))


def named_values(texts: Sequence[str]) -> dict[str, Any]:
    """The values of `NAME=VALUE` texts, as JSON; what is no JSON is a text."""
    values: dict[str, Any] = {}
    for word in texts:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"expected NAME=VALUE, got {word!r}")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def _recipe(words: Sequence[str], names: Sequence[str]) -> str:
    """The recipe that a command line names; tyro says what is wrong with another word."""
    found = names[0]
    for word, after in zip(words, [*words, ""][1:], strict=True):
        name, _, value = word.partition("=")
        if name == "--recipe" and (value or after) in names:
            found = value or after
    return found


def _processes(options: Options) -> int:
    """How many processes share the work: this one alone, so many on this machine, or those that torchrun started."""
    if not isinstance(options, SharedOptions):
        if launch.launched():
            raise ValueError(f"{Path(sys.argv[0]).name} works in one process; start it without torchrun")
        return 1
    if options.processes is not None and options.processes < 1:
        raise ValueError(f"--processes must be at least 1, got {options.processes}")
    if launch.launched():
        return 1
    return options.processes or launch.on_cpu(options.device, options.default_processes)


def check_workers(workers: int | None) -> None:
    """Refuse a number of processes that work beside this one; 0 is none, None leaves it to the app."""
    if workers is not None and workers < 0:
        fail(f"--workers must be at least 0, got {workers}")
