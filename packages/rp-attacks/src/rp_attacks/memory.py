"""How many images a device has room for at a time: a pass on a few of them, against the memory that is free."""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from rp_attacks.defence import Classifier, query
from rp_attacks.eot import NoGradientError, input_gradient
from rp_attacks.losses import cross_entropy
from rp_attacks.problem import differentiating
from rp_attacks.rng import PrivateStream
from rp_attacks.watch import uncounted

USED = 0.8  # of the free memory; what does not fit after all is halved (`rp_attacks.eot`)
_IMAGES = 8  # of the pass that is measured


def room(model: Classifier, x: Tensor, y: Tensor, index: Tensor) -> int | None:
    """Images whose forward and backward pass fit into the device's memory together; None where its size is not known.

    It measures one pass on the first images, of which the memory that one takes is reckoned.
    """
    free = free_memory(x.device)
    if free is None:
        return None
    count = min(_IMAGES, len(x))

    def one_pass() -> None:
        with differentiating(), PrivateStream(0)(x.device), uncounted(), suppress(NoGradientError):
            leaf = x[:count].detach().requires_grad_()
            input_gradient(cross_entropy(query(model, leaf, seed=0, index=index[:count]), y[:count]), leaf)

    try:
        each = peak_memory(x.device, one_pass) / count
    except torch.OutOfMemoryError:
        return 1
    return max(int(USED * free / max(each, 1)), 1)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a CUDA device, with those that torch keeps for later; None where nobody tells."""
    if device.type != "cuda":
        return None
    try:
        free = int(torch.cuda.mem_get_info(device)[0])
    except (RuntimeError, AssertionError):  # of a driver that does not know, or of no driver: virtual GPUs
        return None
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def peak_memory(device: torch.device, work: Callable[[], None]) -> int:
    """Bytes that some work takes at most beyond those that are taken already; sets torch's peak statistics back."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
