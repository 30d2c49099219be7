"""EOT passes that do not fit into memory together are made in smaller batches, with the same result."""

import pytest
import torch
from rp_attacks import eot
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
