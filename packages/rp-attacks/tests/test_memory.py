import pytest
import torch
from rp_attacks import PGD, MeanLogits

from .models import NoisyModel, images, tiny_conv


class Counter:
    """Bytes that autograd holds for backward passes, and their peak."""

    def __init__(self) -> None:
        self.held = self.peak = 0

    def pack(self, tensor: torch.Tensor) -> "Held":
        return Held(self, tensor)


class Held:
    def __init__(self, counter: Counter, tensor: torch.Tensor) -> None:
        self.counter, self.tensor, self.bytes = counter, tensor, tensor.nbytes
        counter.held += self.bytes
        counter.peak = max(counter.peak, counter.held)

    def __del__(self) -> None:
        self.counter.held -= self.bytes


def peak(call) -> int:
    counter = Counter()
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda held: held.tensor):
        call()
    return counter.peak


@pytest.mark.parametrize(("steps", "eot"), [(12, 1), (1, 12), (6, 6)])
def test_the_graph_does_not_grow_with_steps_or_copies(steps: int, eot: int) -> None:
    model, x = NoisyModel(tiny_conv(), 0.1), images(4, (3, 8, 8))
    y = torch.zeros(4, dtype=torch.int64)
    one = peak(lambda: PGD(steps=1, eot=1)(model, x, y, seed=0))
    assert 0 < peak(lambda: PGD(steps=steps, eot=eot)(model, x, y, seed=0)) <= one


def test_chunks_take_memory_for_their_copies_alone() -> None:
    model, x = NoisyModel(tiny_conv(), 0.1), images(4, (3, 8, 8))
    y = torch.zeros(4, dtype=torch.int64)
    one, three = (peak(lambda c=c: PGD(steps=2, eot=12, eot_chunk=c)(model, x, y, seed=0)) for c in (1, 3))
    assert 2 * one < three < 4 * one


def test_mean_logits_hold_one_pass_at_a_time() -> None:
    model, x = NoisyModel(tiny_conv(), 0.1), images(4, (3, 8, 8))

    def differentiate(passes: int) -> int:
        leaf = x.clone().requires_grad_()
        return peak(lambda: torch.autograd.grad(MeanLogits(model, passes=passes, seed=0)(leaf).sum(), leaf))

    assert differentiate(10) <= differentiate(1)
