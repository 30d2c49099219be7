"""Values on their way to a device, and whether they are in range, without waiting for a GPU."""

from collections.abc import Callable

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on another device; on the way to a GPU from pinned memory, so that the copy does not wait."""
    if device.type == "cuda" and values.device.type == "cpu" and not torch.compiler.is_compiling():
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def as_values(value: Tensor | float, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A number or a tensor as a tensor on the device; a number is filled in there, since a copy would have to wait."""
    if isinstance(value, Tensor):
        return value.to(device, dtype)
    return torch.full((), value, device=device, dtype=dtype)


def check_values(x: Tensor, right: Callable[[Tensor], Tensor], message: Callable[[Tensor], str]) -> None:
    """Refuse values of x for which `right` does not hold; not while compiling, and not where there are no values.

    A GPU is not waited for: it looks for itself, and what is wrong stops the process where that waits next.

    Raises:
        ValueError: with the message; on a GPU a RuntimeError, later.
    """
    if torch.compiler.is_compiling() or x.is_meta or _fake():
        return
    if x.is_cuda:
        torch._assert_async(right(x).all())
    elif not bool(right(x).all()):
        raise ValueError(message(x))


def _fake() -> bool:
    """Whether tensors have no values at present (torch's FakeTensorMode), as where a run's cost is counted."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
