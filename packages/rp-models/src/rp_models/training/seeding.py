"""A fresh, repeatable global generator for what torch draws by itself: initial weights and dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rp_models.noise import derive_seed


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Inside the block torch's global generators start from (seed, purpose); afterwards they are as before."""
    with torch.random.fork_rng(devices=_devices()):
        torch.manual_seed(derive_seed(seed, *purpose) % 2**63)  # noqa: TID251 (the one place that may)
        yield


def _devices() -> list[int]:
    """The GPU in use: asking for the state of all of them would open each in every process."""
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
