"""Two processes under `torchrun` against one: the same batches, draws, statistics and weights; killed, they go on."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rp_models.checkpoint import read_tensors
from rp_models.training import Processes

pytestmark = pytest.mark.slow  # five processes import torch

WORKER = Path(__file__).with_name("distributed_worker.py")
ALONE = runpy.run_path(str(WORKER))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder in which two processes left their results; one launch for all tests of this file."""
    folder = tmp_path_factory.mktemp("together")
    launch = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
        *(str(WORKER), str(folder)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def read(folder, name):
    return read_tensors(folder / f"{name}.safetensors")


@pytest.mark.parametrize("name", ALONE["TRAINERS"])
def test_two_processes_train_as_one(together, tmp_path, name):
    first, second = (read(together, f"{name}.{rank}") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    expected = ALONE["trained"](name, tmp_path)
    assert first.keys() == expected.keys()
    for key, value in expected.items():
        # sums over images are rounded in another order; Adam divides by the gradient's size and so enlarges that
        torch.testing.assert_close(first[key], value, atol=1e-5, rtol=1e-4, msg=lambda said, key=key: f"{key}: {said}")


def test_batch_norms_see_the_whole_batch(together):
    expected = ALONE["normalised"]()
    parts = [read(together, f"normalised.{rank}") for rank in (0, 1)]
    for key, value in expected.items():
        per_image = ".y" in key or ".grad" in key
        found = torch.cat([part[key] for part in parts]) if per_image else parts[0][key]
        # a variance from two sums instead of one pass
        torch.testing.assert_close(found, value, atol=2e-6, rtol=1e-5, msg=lambda said, key=key: f"{key}: {said}")


def test_a_killed_process_stops_all_and_the_next_attempt_ends_with_the_same_weights(together):
    whole, resumed = read(together, "edm.0"), read(together, "resumed.0")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_an_error_of_the_first_process_stops_all(together):
    assert [(together / f"stopped.{rank}").read_text() for rank in (0, 1)] == ["ZeroDivisionError", "Stopped"]


def test_a_batch_is_cut_into_equal_parts():
    batch = torch.arange(6)
    assert torch.equal(torch.cat([Processes(rank, 3).part(batch) for rank in range(3)]), batch)
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided among 4 processes"):
        Processes(0, 4).part(batch)
