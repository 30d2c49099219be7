"""A run: claimed once, made once, finished with all that says where it comes from; alone and in two processes."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from rp_experiments.run import Run, open_run
from rp_models.training import RunError, RunFolder

WORKER = Path(__file__).with_name("ranks_worker.py")


@pytest.fixture
def run(tmp_path):
    return Run(folder=RunFolder(tmp_path / "run")).claim({"seed": 0})


def test_what_is_there_is_not_made_again(run):
    made = []

    def number():
        made.append(1)
        return {"number": len(made)}

    def file():
        (run.path / "checkpoints").mkdir()
        (run.path / "checkpoints" / "a.bin").write_bytes(b"a")

    assert [run.once("results/a.json", number) for _ in range(2)] == [{"number": 1}] * 2
    assert [run.once("checkpoints/a.bin", file) for _ in range(2)] == [run.path / "checkpoints" / "a.bin"] * 2
    assert set(run.folder.seconds()) == {"a"}


def test_a_piece_that_fails_is_made_the_next_time(run):
    with pytest.raises(ZeroDivisionError):
        run.once("a.json", lambda: 1 / 0)
    assert run.once("a.json", lambda: 1) == 1


def test_a_folder_is_claimed_for_one_configuration(tmp_path):
    with open_run(tmp_path / "run", device="cpu") as run:
        assert not (tmp_path / "run").exists()  # what is wrong shows before anything is written
        run.claim({"seed": 0})
    for resume, seed in ((False, 0), (True, 1)):
        with open_run(tmp_path / "run", device="cpu", resume=resume) as run, pytest.raises(RunError):
            run.claim({"seed": seed})
    with open_run(tmp_path / "run", device="cpu", resume=True) as run:
        run.claim({"seed": 0})


def test_a_run_does_not_go_on_with_another_file_of_the_same_name(tmp_path):
    file = tmp_path / "own.npz"
    for content, error in ((b"one", None), (b"one", None), (b"another", RunError)):
        file.write_bytes(content)
        run = Run(folder=RunFolder(tmp_path / "run"), resume=True)
        if error is None:
            run.claim({"data": str(file)})
        else:
            with pytest.raises(error, match=r"own\.npz"):
                run.claim({"data": str(file)})


def test_a_result_says_where_it_comes_from(run):
    run.once("a.json", lambda: 1)
    result = run.finish({"images": 3})
    assert json.loads((run.path / "result.json").read_text()) == result
    assert result["config"] == {"seed": 0}
    assert (result["images"], set(result["seconds"])) == (3, {"a"})
    assert result["environment"]["versions"]["torch"]
    assert result["device"]


def test_a_run_sent_to_another_process_is_alone_and_silent(tmp_path):
    with open_run(tmp_path / "run", device="cpu", cache=tmp_path / "cache") as run:
        sent = pickle.loads(pickle.dumps(run))
    assert (sent.path, sent.cache, sent.device) == (run.path, run.cache, run.device)
    assert sent.processes.count == 1
    sent.progress.start("nothing is shown", 1, 0)


def test_alone_all_items_are_this_process_s(run):
    assert list(run.share("abc")) == ["a", "b", "c"]
    assert list(run.share([])) == []


def test_two_processes_share_items_and_agree_on_what_is_there(tmp_path):
    """Started by the first one; see `ranks_worker.py` for what each does."""
    done = subprocess.run([sys.executable, WORKER, tmp_path / "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / "run" / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [record["count"] for record in records] == [2, 2]
    items = [item for record in records for item in record["items"]]
    assert sorted(items) == list(range(20))  # each by one of them
    assert all(record["items"] for record in records)
    assert [record["made"] for record in records] == [1, 0]  # the first works, the other waits
    assert [record["value"] for record in records] == ["first's"] * 2
    assert [record["together"] for record in records] == [1, 1]
    assert done.stdout.count("nested") == 2


def test_a_failure_in_one_of_two_processes_ends_both(tmp_path):
    for rank in ("0", "1"):
        done = subprocess.run(
            [sys.executable, WORKER, tmp_path / f"run{rank}", rank],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert f"rank {rank} has had enough" in done.stderr
        assert "Traceback" not in done.stderr
