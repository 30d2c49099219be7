"""Batches and EOT passes are as large as memory allows; those that do not fit are halved, with the same result."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rp_attacks import PGD, eot, evaluate, memory
from rp_attacks.losses import cw_margin
from torch import Tensor


class Small:
    """A random classifier whose device holds so many images."""

    def __init__(self, room: int) -> None:
        self.room, self.asked = room, list[int]()
        self.weight = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))

    def with_noise(self, *, seed: int, index: Tensor):
        noise = torch.sin(index.double()[:, None] * 12.9898 + torch.arange(12)).float()

        def answer(x: Tensor) -> Tensor:
            self.asked.append(len(x))
            if len(x) > self.room:
                raise torch.OutOfMemoryError("out of memory")
            return (x.flatten(1) + noise).sin() @ self.weight

        return answer

    def __call__(self, x: Tensor) -> Tensor:
        return self.with_noise(seed=0, index=torch.arange(len(x)))(x)


def gradient(model: Small) -> Tensor:
    x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    y, index = torch.tensor([0, 1]), torch.arange(2)
    return eot.expected_gradient(model, x, y, cw_margin, seed=0, index=index, passes=8, chunk=8).grad


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eot, "_FITS", {})
    small = Small(room=5)
    found = gradient(small)
    assert small.asked == [16, 8, 4, 4, 4, 4]
    small.asked.clear()
    again = gradient(small)
    assert small.asked == [4, 4, 4, 4]
    assert torch.equal(again, found)
    monkeypatch.setattr(eot, "_FITS", {})
    torch.testing.assert_close(found, gradient(Small(room=100)), atol=1e-6, rtol=1e-5)  # sums in another order


def test_one_pass_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eot, "_FITS", {})
    with pytest.raises(torch.OutOfMemoryError):
        gradient(Small(room=1))


def test_chunks_and_batches_are_chosen_by_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 4,000 bytes, of which a pass takes 100 for each image."""
    free, small = {"bytes": 4000}, Small(room=10**6)

    def peak(device: torch.device, work: Callable[[], None]) -> int:
        before = len(small.asked)
        work()
        return 100 * max(small.asked[before:])

    x, index = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(6)
    y, attacks = small(x).argmax(1), {"pgd": PGD(eps=0.1, steps=2, eot=7)}
    options = {"seed": 0, "passes": 2, "probes": 0, "batch_size": 4}
    usual = evaluate(small, x, y, attacks, **options)
    assert max(small.asked) == 6  # checks ask about all images
    monkeypatch.setattr(memory, "free_memory", lambda device: free["bytes"])
    monkeypatch.setattr(memory, "peak_memory", peak)
    assert memory.room(small, x, y, index) == 32  # 4/5 of 4,000 bytes
    for room, most in ((4000, 28), (1000, 8), (250, 2)):  # batches of 4 images with 7, 2, and of 2 with 1 of the passes
        free["bytes"] = room
        small.asked.clear()
        found = evaluate(small, x, y, attacks, **options)
        assert max(count for count in small.asked if count != 6) == most
        assert np.array_equal(found.worst.right, usual.worst.right)
        torch.testing.assert_close(found.threats[0].images, usual.threats[0].images, atol=1e-6, rtol=0)
    monkeypatch.setattr(memory, "peak_memory", _too_much)
    assert memory.room(small, x, y, index) == 1


def _too_much(device: torch.device, work: Callable[[], None]) -> int:
    raise torch.OutOfMemoryError("out of memory")


def test_the_memory_of_a_cpu_is_not_asked() -> None:
    assert memory.free_memory(torch.device("cpu")) is None
