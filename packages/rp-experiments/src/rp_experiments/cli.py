"""What the apps' command lines have in common; importing this does not import torch."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import tyro

# A thread of torch's pool that has nothing to do sleeps instead of spinning: on a machine that does anything else at
# the same time, small networks were 30 times slower with spinning threads. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Options = TypeVar("Options")

_FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}  # what a full disk says
_GO_ON = "what was written before is complete; free some space, and go on with --resume"


def parse(options: type[Options], recipes: Mapping[str, Callable[[], Any]]) -> Options:
    """The options of this call: the chosen recipe's settings, changed by what stands on the command line.

    Args:
        options: dataclass with a `recipe` field and a `config` field.
        recipes: functions that make the configuration, by name; the first is the default.

    Raises:
        SystemExit: with status 2 and one sentence for an unknown recipe or option, or a value out of range.
    """
    names = tuple(recipes)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--recipe", choices=names, default=names[0])
    chosen = finder.parse_known_args()[0].recipe
    try:
        return tyro.cli(options, default=options(recipe=chosen, config=recipes[chosen]()))  # type: ignore[call-arg]
    except ValueError as error:
        fail(str(error))


def parse_plain(options: type[Options]) -> Options:
    """The options of this call, for an app without recipes.

    Raises:
        SystemExit: with status 2 for an unknown option or a value out of range.
    """
    try:
        return tyro.cli(options)
    except ValueError as error:
        fail(str(error))


def guarded(work: Callable[[], None]) -> int:
    """Run a job and turn what a user can cause into one sentence and an exit status.

    Returns:
        0 if all went well, 2 for bad input or a disk that cannot be written, 130 for an interrupt.
    """
    from rp_models.checkpoint import CheckpointError
    from rp_models.data.datasets import DataError
    from rp_models.training.devices import DeviceError
    from rp_models.training.distributed import Stopped
    from rp_models.training.loop import Interrupted
    from rp_models.training.run import RunError

    try:
        work()
    except Stopped:  # the first of several processes has said why
        return 2
    except OSError as error:
        full = error.errno in _FULL or any(word in str(error) for word in _FULL.values())
        fail(f"{error}; {_GO_ON}" if full else str(error))
    except (CheckpointError, DataError, DeviceError, Interrupted, RunError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; go on with --resume", file=sys.stderr)
        return 130
    return 0


def fail(message: str) -> NoReturn:
    """Print one sentence and exit with status 2; of several processes, all but the first say which one they are."""
    where = "" if first_process() else f" in process {os.environ['RANK']}"
    print(f"error{where}: {message}", file=sys.stderr)
    raise SystemExit(2)


def check_workers(workers: int | None) -> None:
    """Refuse a number of workers that would do no work; None leaves it to the app."""
    if workers is not None and workers < 1:
        fail(f"--workers must be at least 1, got {workers}")


def first_process() -> bool:
    """Whether this is the only process, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))
