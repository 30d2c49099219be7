"""`sweep.py` as a user calls it."""

import json

from .running import without_torch


def test_a_dry_run_shows_every_point_without_torch(tmp_path):
    words = ("sweep", "--dry-run", "--training.beta", "3", "5", "--seeds", "7")
    done = without_torch({"dry run": words}, tmp_path)["dry run"]
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]["7"]
    assert [run["training"]["beta"] for run in runs] == [3.0, 5.0] * 5
    assert not list(tmp_path.iterdir())
