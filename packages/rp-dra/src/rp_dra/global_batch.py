"""What is taken over the images of all processes that train together."""

from typing import Any

import torch
from torch import Tensor, distributed


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes of a tensor without graph; the tensor itself is overwritten."""
    if count() > 1:
        distributed.all_reduce(tensor)
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean over all processes of a tensor without graph; the tensor itself is overwritten."""
    return total(tensor) / count()


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in their order, as many of each; gradients flow back to the rows of this process.

    A loss on the gathered rows is the same in all processes, and the mean of its gradients over the processes is that
    of one process with all images.
    """
    if count() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


def own(rows: Tensor) -> Tensor:
    """This process's part of gathered rows."""
    return rows.tensor_split(count())[distributed.get_rank()] if count() > 1 else rows


class _Gather(torch.autograd.Function):
    """All rows; the gradients of a process's rows are summed over the processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        del ctx
        found = [torch.empty_like(rows) for _ in range(count())]
        distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        del ctx
        return own(total(grad.clone()))
