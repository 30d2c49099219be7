"""One process at a time works in a run's folder."""

import subprocess
import sys

import pytest
from rp_models.training import RunError, RunFolder
from rp_models.training.distributed import ALONE, Processes

HOLD = """
import sys, time
from rp_models.training.run import RunFolder
folder = RunFolder.open(sys.argv[1], {"a": 1}, resume=True)
print("open", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that works in the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_until_its_process_is_killed(tmp_path, other):
    with pytest.raises(RunError, match=rf"in use by process {other.pid} on \S+; wait until it is done"):
        RunFolder.open(tmp_path / "run", {"a": 1}, resume=True)
    other.kill()
    other.wait()
    RunFolder.open(tmp_path / "run", {"a": 1}, resume=True).log("train", 1, {"loss": 0.5})


def test_the_same_process_may_open_its_folder_again(tmp_path):
    first = RunFolder.open(tmp_path, {"a": 1}, resume=False)
    assert RunFolder.open(tmp_path, {"a": 1}, resume=True).path == first.path


def test_the_lock_ends_with_the_folder_that_holds_it(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {"a": 1}, resume=False)
    del folder
    code = (
        "import sys; from rp_models.training.run import RunFolder; RunFolder.open(sys.argv[1], {'a': 1}, resume=True)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)


def test_foreign_folders_get_no_lock_file(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.open(tmp_path, {}, resume=False)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


class Second(Processes):
    """The second of two processes, while the first one opens the folder."""

    def rank_zero_first(self, work):
        del work


def test_only_the_first_of_several_processes_locks_and_keeps_the_times(tmp_path):
    first = RunFolder.open(tmp_path, {"a": 1}, resume=False, processes=ALONE)
    second = RunFolder.open(tmp_path, {"a": 1}, resume=False, processes=Second(rank=1, count=2))
    with second.timed("train"):
        pass
    assert first.seconds() == {}
    with first.timed("train"):
        pass
    assert set(first.seconds()) == {"train"}
