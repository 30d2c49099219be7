"""Jobs of this machine outlive whatever starts them, and a killed one goes on from its last state."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

_UNTIL = 60
_SCRIPT = f"""
import sys, time
from functools import partial
from pathlib import Path
from rp_experiments.jobs import Cluster, Job
from rp_experiments.launchers import choose_jobs
from rp_models.files import complete_file

def count(folder):
    state = folder / "state"
    for number in range(int(state.read_text()) if state.exists() else 0, {_UNTIL}):
        with (folder / "done.txt").open("a") as file:
            file.write(f"{{number}}\\n")
        time.sleep(0.05)
        with complete_file(state) as file:
            file.write_text(str(number + 1))

folder = Path(sys.argv[1])
jobs = choose_jobs(Cluster(launcher="local", max_parallel=1), folder)
failed = jobs.run([] if jobs.done("count") else [Job(name="count", work=partial(count, folder))])
sys.exit(str(failed) if failed else 0)
"""


def start(folder):
    with (folder / "said.txt").open("a") as said:  # no pipe: the job would keep it open
        return subprocess.Popen([sys.executable, "-c", _SCRIPT, str(folder)], stderr=said)


def numbers(folder):
    file = folder / "done.txt"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.mark.parametrize("killed", ["launcher", "launcher and job"])
def test_killed_without_warning_at_most_the_work_since_the_last_state_is_lost(tmp_path, killed):
    launcher = start(tmp_path)
    end = time.monotonic() + 120
    while len(numbers(tmp_path)) < 3:
        assert launcher.poll() is None, (tmp_path / "said.txt").read_text()
        assert time.monotonic() < end, "the job did not begin"
        time.sleep(0.02)
    first = json.loads((tmp_path / "jobs" / "count.json").read_text())["id"]
    launcher.kill()
    launcher.wait()
    if killed == "launcher and job":
        tasks = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for process in (first, *tasks):
            os.kill(int(process), signal.SIGKILL)
    again = start(tmp_path)
    assert again.wait(timeout=120) == 0, (tmp_path / "said.txt").read_text()
    times = Counter(numbers(tmp_path))
    assert sorted(times) == list(range(_UNTIL))
    repeated = [number for number, count in times.items() if count > 1]
    second = json.loads((tmp_path / "jobs" / "count.json").read_text())["id"]
    if killed == "launcher":  # the same job went on, and was waited for
        assert repeated == []
        assert second == first
    else:
        assert len(repeated) <= 1
        assert max(times.values()) <= 2
        assert second != first
