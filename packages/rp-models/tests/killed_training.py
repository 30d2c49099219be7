"""What `test_training_killed.py` runs: trainings that are killed by SIGKILL at a chosen moment, and resumed.

Importing torch takes longer than all of them, so one process imports it and forks each training.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch
from rp_models import checkpoint
from rp_models.checkpoint import read_tensors, save_tensors
from rp_models.training import RunFolder, TrainingState, seeded, train_stage
from torch import nn

STEPS = 6


class Toy:
    """A trainer with dropout, batch norm and an optimiser with a memory."""

    def __init__(self):
        with seeded(0, "toy"):
            self.model = nn.Sequential(nn.Linear(4, 400), nn.BatchNorm1d(400), nn.Dropout(0.5), nn.Linear(400, 1))
        self.state = TrainingState({"model": self.model}, torch.optim.AdamW(self.model.parameters(), lr=0.01))

    def step(self, step):
        loss = self.model(torch.sin(torch.arange(24.0).reshape(6, 4) + step)).square().mean()
        self.state.optimizer.zero_grad()
        loss.backward()
        self.state.optimizer.step()
        return {"loss": loss.item()}


def session(path, patch=lambda: None):
    """One session of the run; its weights lie in `weights.safetensors` if it comes to the end."""
    patch()
    toy, folder = Toy(), RunFolder.open(path, {"steps": STEPS}, resume=True)
    train_stage(toy, stage="toy", steps=STEPS, folder=folder, identity={}, seed=0, save_seconds=0.0)
    save_tensors(toy.model.state_dict(), path / "weights.safetensors", {})


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name, number, *, before=None, after=None, where=lambda *args: True):
    """A patch: do something before or after call `number` (from 1) of a function whose arguments fit."""

    def patch():
        original, calls = getattr(owner, name), []

        def patched(*args, **kwargs):
            calls.append(None) if where(*args) else None
            now = where(*args) and len(calls) == number
            if now and before:
                before(*args)
            result = original(*args, **kwargs)
            if now and after:
                after(*args)
            return result

        setattr(owner, name, patched)

    return patch


def named(ending):
    return lambda path, *rest: str(path).endswith(ending) or any(str(other).endswith(ending) for other in rest)


def half_a_file(tensors, path, **kwargs):
    Path(path).write_bytes(b"half of it")
    die()


def half_a_line(folder, *args):
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "toy", "st')
    die()


def dead(*args):
    die()


STATE, LINES = named("toy.state.safetensors"), named("metrics.jsonl")
KILLS = {
    "before the first file is complete": [around(Path, "replace", 1, before=dead)],
    "between environment and configuration": [around(Path, "replace", 2, before=dead)],
    "in the middle of step 1": [around(Toy, "step", 1, after=dead)],
    "in the middle of step 4": [around(Toy, "step", 4, after=dead)],
    "while a line of metrics is written": [around(RunFolder, "log", 4, before=half_a_line)],
    "between metrics and state": [around(RunFolder, "log", 4, after=dead)],
    "while the state is written": [around(checkpoint, "save_file", 3, before=half_a_file)],
    "between the state's writing and its renaming": [around(Path, "replace", 3, before=dead, where=STATE)],
    "right after the state's renaming": [around(Path, "replace", 3, after=dead, where=STATE)],
    "before the last state's renaming": [around(Path, "replace", STEPS, before=dead, where=STATE)],
    "while the lines are rewritten, after a first kill": [
        around(RunFolder, "log", 4, after=dead),
        around(Path, "replace", 1, before=dead, where=LINES),
    ],
}


def forked(work):
    """Run some work in a process of its own; how it ended, as `os.waitpid` tells it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except OSError as error:
            sys.stderr.write(f"{error}\n")
            os._exit(3)
        finally:
            os._exit(4)
    return os.waitpid(child, 0)[1]


def no_more_than(size):
    """A patch: no file can grow beyond `size` bytes, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def outcome(path, whole):
    """What a finished run left: whether its weights are those of the whole run, the logged steps, and its files."""
    weights = read_tensors(path / "weights.safetensors")
    steps = [record["step"] for record in RunFolder(path).metrics("toy")]
    return {
        "same": all(torch.equal(whole[key], value) for key, value in weights.items()),
        "steps": steps,
        "files": sorted(file.name for file in path.rglob("*") if file.is_file()),
    }


def main(base):
    session(base / "whole")
    whole, found = read_tensors(base / "whole" / "weights.safetensors"), {}
    for name, patches in KILLS.items():
        path = base / name
        ends = [forked(lambda patch=patch, path=path: session(path, patch)) for patch in patches]
        killed = all(os.WIFSIGNALED(end) and os.WTERMSIG(end) == signal.SIGKILL for end in ends)
        finished = forked(lambda path=path: session(path)) == 0
        found[name] = {"killed": killed, "finished": finished, **outcome(path, whole)}
    path = base / "full"
    forked(lambda: session(path, around(Toy, "step", 4, before=dead)))
    before = (path / "checkpoints" / "toy.state.safetensors").read_bytes()
    end = forked(lambda: session(path, no_more_than(5000)))
    kept = (path / "checkpoints" / "toy.state.safetensors").read_bytes() == before
    leftovers = [file.name for file in path.rglob("*.tmp")]
    finished = forked(lambda: session(path)) == 0
    found["full disk"] = {
        "status": os.waitstatus_to_exitcode(end),
        "kept": kept,
        "leftovers": leftovers,
        "finished": finished,
        **outcome(path, whole),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
