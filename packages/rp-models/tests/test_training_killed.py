"""`kill -9` at any moment, also between two file writes, and a full disk: resumed, the weights are the same bits."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_training.py")
NAMES = runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What became of each training, and what was said."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("killed"))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("moment", NAMES["KILLS"])
def test_a_training_killed_at_any_moment_ends_with_the_same_weights(found, moment):
    run = found[0][moment]
    assert run["killed"], "the kill did not happen"
    assert run["finished"]
    assert run["same"]
    assert run["steps"] == list(range(1, NAMES["STEPS"] + 1))
    names = ["config.json", "environment.json", "metrics.jsonl", "toy.state.safetensors", "weights.safetensors"]
    assert run["files"] == [".lock", *names]  # and no temporary file of a killed process


def test_a_full_disk_ends_in_a_message_and_leaves_the_last_good_state(found):
    run, said = found[0]["full disk"], found[1]
    assert run["status"] == 3  # an OSError
    assert "toy.state.safetensors could not be written" in said
    assert "File too large" in said
    assert run["kept"]
    assert run["leftovers"] == []
    assert run["finished"]
    assert run["same"]
