"""What the tests rely on when they run an app in their own process: it behaves as in one of its own."""

import os
import sys
from pathlib import Path

import pytest
import torch

from . import running

APP = """
import os, sys
os.environ["TRACE"] = "left behind"
sys.path.append("left behind")
if torch := sys.modules.get("torch"):
    torch.set_num_threads(torch.get_num_threads() + 1)
print(__name__, sys.argv[1:], os.getcwd(), os.environ["COLUMNS"])
print("│ two", "lines │", sep="\\n", file=sys.stderr)
if sys.argv[1] == "fall":
    raise ValueError("this was not expected")
os.chdir("..")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def apps(tmp_path, monkeypatch):
    """A folder of apps with one in it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "spoil.py").write_text(APP)
    monkeypatch.setattr(running, "APPS", tmp_path)


def state():
    return dict(os.environ), Path.cwd(), sys.argv[:], sys.path[:], sys.modules["__main__"], torch.get_num_threads()


def test_an_app_is_the_main_program_of_its_folder_and_leaves_no_trace(tmp_path):
    before = state()
    done = running.app("spoil", 3, cwd=tmp_path / "work", status=3)
    assert state() == before
    assert done.stdout == f"__main__ ['3'] {tmp_path / 'work'} 200\n"
    assert done.message == "two lines"
    assert done == running.process("spoil", 3, cwd=tmp_path / "work", status=3)


def test_another_status_than_expected_fails_and_shows_what_was_said(tmp_path):
    for way in (running.app, running.process):
        with pytest.raises(AssertionError, match="two\nlines"):
            way("spoil", 3, cwd=tmp_path / "work")
        assert way("spoil", 3, cwd=tmp_path / "work", status=None).returncode == 3


def test_an_error_that_nobody_catches_is_status_1_with_a_traceback(tmp_path):
    before = state()
    for way in (running.app, running.process):
        done = way("spoil", "fall", cwd=tmp_path / "work", status=None)
        assert done.returncode == 1
        assert done.stderr.rstrip().endswith("ValueError: this was not expected")
        with pytest.raises(AssertionError, match="Traceback"):
            way("spoil", "fall", cwd=tmp_path / "work", status=1)
    assert state() == before


def test_torch_in_a_process_that_must_not_import_it_fails(tmp_path):
    with pytest.raises(AssertionError, match="torch was imported"):
        running.without_torch({"work": ("convert", "nvlabs", "nowhere.pkl", "ours.safetensors")}, tmp_path)
