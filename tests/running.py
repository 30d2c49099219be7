"""How tests run apps: inside the tests' process, as a user does, or where torch must not be imported.

Importing torch takes longer than most of what an app does in a test. So most tests call `app`, which runs the app's
file as main program of the process that they are in themselves. Where the process matters (its exit status, what it
imports, that it is killed), the other functions start one.
"""

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
APPS = ROOT / "apps"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}  # one thread each, and no sentence broken into lines


class Done(NamedTuple):
    """What became of a command line, by the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def message(self) -> str:
        """What stands on standard error, without line ends and the borders of boxes."""
        return " ".join(self.stderr.replace("│", " ").split())


def app(name: str, *arguments: object, cwd: Path | str, status: int | None = 0) -> Done:
    """Run an app in this process: all that it changes outside its files is undone, but modules stay imported.

    Its warnings are what the caller makes of warnings: errors in a test.

    Args:
        name: of the app's file, without its ending.
        arguments: of the command line.
        cwd: the folder to run in.
        status: that the app must end with; None for any.
    """
    path, returncode = APPS / f"{name}.py", 0
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with _surroundings(path, arguments, cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            returncode = int(end.code or 0)
        except Exception:
            traceback.print_exc()  # as Python does at the end of a program
            returncode = 1
    printed = (stream.buffer.getvalue().decode() for stream in (out, err))
    return _expected(Done(returncode, *printed), status)


def command(name: str, *arguments: object) -> list[str]:
    """The words that start an app in a process of its own."""
    return [sys.executable, str(APPS / f"{name}.py"), *map(str, arguments)]


def process(name: str, *arguments: object, cwd: Path | str, status: int | None = 0) -> Done:
    """Run an app as a user does, in a process of its own; see `app`."""
    return _expected(_python(*command(name, *arguments)[1:], cwd=cwd), status)


def without_torch(commands: Mapping[str, Sequence[str]], cwd: Path | str) -> dict[str, Done]:
    """What became of command lines (app, arguments), run in turn in one new process, where none may import torch."""
    done = _python(__file__, json.dumps(list(commands.values())), cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: Done(*each) for name, each in zip(commands, json.loads(done.stdout), strict=True)}


def two_processes(name: str, *arguments: object, cwd: Path | str) -> Done:
    """Run an app in two processes that `torchrun` starts."""
    # torchrun looks for a free port itself, and meets on this machine even if it cannot find its own name
    launch = ("--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
    words = ("-m", "torch.distributed.run", *launch, "--local-addr", "127.0.0.1", *command(name, *arguments)[1:])
    return _expected(_python(*words, cwd=cwd), 0)


def _python(*words: str, cwd: Path | str) -> Done:
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _expected(done: Done, status: int | None) -> Done:
    """The same, if the app ended with this status, and told a failure in a sentence."""
    if status is not None:
        assert done.returncode == status, done.stdout + done.stderr
        assert status == 0 or "Traceback" not in done.stderr, done.stderr
    return done


@contextlib.contextmanager
def _surroundings(path: Path, arguments: Sequence[object], cwd: Path | str) -> Iterator[None]:
    """What an app finds: command line, module path, environment and folder; afterwards all is as it was."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    try:
        with (
            mock.patch.object(sys, "argv", [str(path), *map(str, arguments)]),
            mock.patch.object(sys, "path", [str(APPS), *sys.path]),
            mock.patch.dict(os.environ, ENVIRONMENT),
            contextlib.chdir(cwd),
        ):
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def _main() -> None:
    """The other side of `without_torch`."""
    done = [app(*words, cwd=".", status=None) for words in json.loads(sys.argv[1])]
    assert "torch" not in sys.modules, "torch was imported"
    print(json.dumps(done))


if __name__ == "__main__":
    _main()
