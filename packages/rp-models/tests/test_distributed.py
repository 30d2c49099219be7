"""Two processes against one: the same batches, draws, statistics and weights; killed, they go on.

Started by `torchrun` itself, all of it is shown again by `-m slow`.
"""

import json
import runpy
from pathlib import Path

import pytest
import torch
from rp_models.checkpoint import read_tensors
from rp_models.training import Processes
from rp_testing.two_processes import in_two_processes

WORKER = Path(__file__).with_name("distributed_worker.py")
ALONE = runpy.run_path(str(WORKER))


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, id="forks"), pytest.param(True, id="torchrun", marks=pytest.mark.slow)],
)
def together(request, tmp_path_factory):
    """The folder in which two processes left their results; one launch for all tests of this file."""
    folder = tmp_path_factory.mktemp("together")
    said = in_two_processes(WORKER, folder, restarts=1, torchrun=request.param)
    assert "find_unused_parameters" not in said
    assert "bucket view strides" not in said
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


def test_batch_norms_of_own_images_average_their_gradients_and_have_the_first_statistics(together):
    first, second = (read(together, f"own.{rank}") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    halves = [ALONE["of_own_images"](Processes(), rows) for rows in (slice(4), slice(4, 8))]
    for key, value in first.items():
        parameter = "running" not in key and "tracked" not in key
        expected = (halves[0][key] + halves[1][key]) / 2 if parameter else halves[0][key]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_a_killed_process_stops_all_and_the_next_attempt_ends_with_the_same_weights(together):
    whole, resumed = read(together, "edm.0"), read(together, "resumed.0")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_processes_share_what_is_judged_on_held_out_images(together):
    first, second = (json.loads((together / f"held-out.{rank}").read_text()) for rank in (0, 1))
    assert first == second == pytest.approx(ALONE["held_out"](), rel=1e-12)


def test_an_error_of_the_first_process_stops_all(together):
    assert [(together / f"stopped.{rank}").read_text() for rank in (0, 1)] == ["ZeroDivisionError", "Stopped"]


def test_a_batch_is_cut_into_equal_parts():
    batch = torch.arange(6)
    assert torch.equal(torch.cat([Processes(rank, 3).part(batch) for rank in range(3)]), batch)
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided among 4 processes"):
        Processes(0, 4).part(batch)
