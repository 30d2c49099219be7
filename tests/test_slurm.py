"""`--launcher slurm` on a real Slurm cluster of one node, which the test starts itself."""

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .running import app, command
from .single_node_slurm import missing, single_node

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "there is a cluster")]
ITEMS = ("mae-pure/table-1", "mae-pure/table-6", "mae-pure/theorem-j.1", "mae-pure/fig-1")
COMMAND = (*ITEMS, "--scale", "smoke", "--device", "cpu", "--processes", "2", "--cache", "cache")


def test_killed_and_requeued_on_slurm_the_numbers_are_those_of_one_process(tmp_path) -> None:
    with single_node(tmp_path / "slurm") as environment:
        where = tmp_path / "there"
        where.mkdir()
        words = command("reproduce", *COMMAND, "--out", "run", "--launcher", "slurm", "--slurm.mem=0")
        said, jobs = where / "said.txt", where / "run" / "jobs"
        with said.open("w") as file:
            call = subprocess.Popen(words, cwd=where, env={**environment, "OMP_NUM_THREADS": "1"}, stderr=file)
        taken = _take_away_a_training(where, environment)
        assert call.wait(timeout=600) == 0, said.read_text()
        started = {path.stem: json.loads(path.read_text())["id"] for path in jobs.glob("*.json")}
        arrays = [identity.partition("_")[0] for identity in started.values() if "_" in identity]
        assert max(arrays.count(array) for array in arrays) >= 4
        log = (where / "run" / "submitit" / f"{taken}_0_log.out").read_text()
        assert "Requeued job" in log
        (compare,) = (identity for name, identity in started.items() if name.startswith("compare"))
        assert (where / "run" / "submitit" / f"{compare}_1_log.err").exists()  # of its second process
    here = tmp_path / "here"
    here.mkdir()
    app("reproduce", *COMMAND, "--out", "run", "--launcher", "here", cwd=here)
    for item in ITEMS:
        name = f"run/items/{item.replace('/', '-')}.json"
        assert _numbers(where / name) == _numbers(here / name)


def _take_away_a_training(where: Path, environment: Mapping[str, str]) -> str:
    """Send the signal of preemption to the job that trains the networks, once it has begun to; gives the job."""
    record = None
    for _ in range(600):
        time.sleep(0.1)
        record = record or next((where / "run" / "jobs").glob("networks-*.json"), None)
        if record and list((where / "cache").rglob("metrics.jsonl")):
            break
    assert record is not None, "no training began within a minute"
    job = str(json.loads(record.read_text())["id"])
    subprocess.run(["scancel", "--signal=USR2", job], env=environment, check=True)
    return job


def _numbers(path: Path) -> Any:
    """What an item says, without what a run of another place and time must differ in."""
    record = json.loads(path.read_text())
    return {key: record[key] for key in ("tables", "numbers", "claims")}
