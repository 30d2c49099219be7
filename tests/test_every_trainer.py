"""Two processes train as one does, with accumulated gradients and with batch norms of their own; one stops half way."""

import pytest
import torch
from rp_models.checkpoint import read_tensors
from rp_testing.two_processes import in_two_processes

from tests import every_trainer

# Sums over images are rounded in another order, and a sign step of an adversary flips where its gradient is near zero.
TOLERANCE = 1e-3  # of the error's norm to the tensors'


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder in which two processes left their results."""
    folder = tmp_path_factory.mktemp("together")
    in_two_processes(every_trainer.__file__, folder)
    return folder


@pytest.mark.parametrize("label", every_trainer.NAMES)
def test_two_processes_train_as_one_that_stopped_and_went_on(together, tmp_path, label):
    first, second = (read_tensors(together / f"{label.replace('/', ' ')}.{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    expected = every_trainer.alone(label, tmp_path / "state.safetensors")
    assert first.keys() == expected.keys()
    errors = {key: _relative(first[key], value, expected) for key, value in expected.items()}
    assert max(errors.values()) < TOLERANCE, dict(sorted(errors.items(), key=lambda item: -item[1])[:5])


def _relative(found, expected, all_expected):
    """The norm of the difference, as a share of the tensor's and at least of a hundredth of the largest one's."""
    largest = max(float(value.norm()) for key, value in all_expected.items() if key.startswith(("exp", "momentum")))
    return float((found - expected).norm()) / max(float(expected.norm()), 0.01 * largest)
