"""Several processes that train together: started by `torchrun`, joined by torch.distributed.

A global batch is cut into equal parts, one a process; the gradients are averaged by `DistributedDataParallel`, and
batch norms see the statistics of the global batch. So the result is that of one process, to rounding.
"""

import datetime
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from rp_models.settings import ComputeSettings

T = TypeVar("T")
_ARGUMENTS = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers"  # its old name
_BUCKET = 2**24  # gradient entries exchanged at once
_TIMEOUT = datetime.timedelta(minutes=10)  # of an exchange: a process that hangs stops the others
_PATIENCE = datetime.timedelta(hours=12)  # of a wait for work that others do alone, e.g. sampling or attacks
_waiting: "list[distributed.ProcessGroup]" = []  # the group of such waits, of gloo on CPUs; none in a group of others


class Stopped(RuntimeError):
    """The first process failed, and has said why; this one stops too."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a run: the number `rank` of this one, from 0, and their `count`."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of what belongs to a global batch: consecutive rows, as many in each process.

        Raises ValueError if the rows cannot be divided.
        """
        if len(batch) % self.count:
            raise ValueError(
                f"a batch of {len(batch)} cannot be divided among {self.count} processes; choose a multiple"
            )
        size = len(batch) // self.count
        return batch[self.rank * size : (self.rank + 1) * size]

    def mean(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """The metrics as numbers, averaged over the processes; all of them get the same numbers."""
        values = torch.stack([value.detach().float() for value in metrics.values()])
        return dict(zip(metrics, (self.sum(values) / self.count).tolist(), strict=True))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor without graph over the processes."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes have come this far, however long some of them work alone."""
        if self.count > 1:
            distributed.barrier(group=_patient())

    def rank_zero_first(self, work: Callable[[], T]) -> T | None:
        """Let the first process do some work alone, while the others wait for it and get None.

        Raises Stopped in the other processes, if the work failed; the first one raises the error itself.
        """
        if self.count == 1:
            return work()
        failed = torch.zeros(1, device="cpu" if _waiting else meeting_device())
        result: T | None = None
        try:
            if self.main:
                failed += 1
                result = work()
                failed -= 1
        finally:
            distributed.broadcast(failed, src=0, group=_patient())
        if failed:
            raise Stopped("the first process stopped")
        return result

    def everywhere(self, work: Callable[[], T]) -> T:
        """What the first process worked out, in all of them; something that pickle can send."""
        found = [self.rank_zero_first(work)]
        if self.count > 1:
            distributed.broadcast_object_list(found, src=0)
        result: Any = found[0]
        return result

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with averaged gradients, if there are several processes.

        Parameters that no loss uses are allowed for, always the same ones; wrap anew where others are used.
        """
        if self.count == 1:
            return module
        # kernels with a side of length 1 have no one layout; DistributedDataParallel warns of that and is right anyway
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        options: dict[str, Any] = {_SYNC_BUFFERS: False}  # buffers are equal everywhere
        return nn.parallel.DistributedDataParallel(module, static_graph=True, gradient_as_bucket_view=True, **options)

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients that were added up in each process, in a few exchanges."""
        if self.count == 1:
            return
        waiting = [parameter.grad for parameter in parameters if parameter.grad is not None]
        while waiting:
            bucket = [waiting.pop()]
            while waiting and waiting[-1].dtype == bucket[0].dtype and sum(g.numel() for g in bucket) < _BUCKET:
                bucket.append(waiting.pop())
            joined = torch.cat([grad.flatten() for grad in bucket])
            distributed.all_reduce(joined)
            joined /= self.count
            for grad, values in zip(bucket, joined.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(values.view_as(grad))

    @torch.no_grad()
    def take_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers, e.g. the statistics of its batch norms."""
        if self.count == 1:
            return
        buffers = list(module.buffers())
        for dtype in dict.fromkeys(buffer.dtype for buffer in buffers):
            same = [buffer for buffer in buffers if buffer.dtype == dtype]
            joined = torch.cat([buffer.flatten() for buffer in same])
            distributed.broadcast(joined, src=0)
            for buffer, values in zip(same, joined.split([b.numel() for b in same]), strict=True):
                buffer.copy_(values.view_as(buffer))


ALONE = Processes()


def launched() -> bool:
    """Whether this process was started by `torchrun` with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def init_distributed(device: torch.device) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; alone without it.

    A block within such a block, or in a process that has initialised torch.distributed by itself, takes the group that
    is there; only the one that made the group ends it. `device`: where this process computes, see `choose_device`: gloo
    joins CPUs, NCCL joins GPUs. An exchange that takes longer than ten minutes is an error; a wait for work that one
    process does alone may take hours.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Processes(distributed.get_rank(), distributed.get_world_size())
        return
    if not launched():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, count = next(rendezvous("env://", timeout=_TIMEOUT))
    # torchrun's store outlives a restart (torch 2.15): without a name of its own, an attempt finds dead addresses there
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = distributed.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_TIMEOUT)
    group: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    _waiting.append(group)
    try:
        yield Processes(rank, count)
    finally:
        _waiting.clear()
        distributed.destroy_process_group()


def _patient() -> "distributed.ProcessGroup | None":
    """The group of waits; None for that of all exchanges."""
    return _waiting[0] if _waiting else None


def meeting_device() -> torch.device:
    """Where tensors must be that the processes exchange; the CPU for one alone."""
    joined = distributed.is_available() and distributed.is_initialized()
    return torch.device("cuda" if joined and distributed.get_backend() == "nccl" else "cpu")


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the global batch on any device; torch's own does this on GPUs only.

    Same entries in the state dict as `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (b, c, h, w) by the statistics of all processes' images in train mode."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(x)
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = _SumOverProcesses.apply(x.float().sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        var = _SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3))) / count
        if self.track_running_stats:
            self._remember(mean.detach(), var.detach() * (count / (count - 1)))
        scale = (var + self.eps).rsqrt()
        if not self.affine:
            return (centred * scale[:, None, None]).to(x.dtype)
        return (centred * (scale * self.weight)[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(cast(Tensor, self.num_batches_tracked)) if self.momentum is None else self.momentum
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(var, momentum)


class NativeSyncBatchNorm2d(nn.SyncBatchNorm, nn.BatchNorm2d):
    """PyTorch's own, for GPUs: two exchanges a pass where `SyncBatchNorm2d` has four, and fused kernels."""

    process_group = None  # all processes


def synchronise_batch_norms(model: nn.Module, processes: Processes, compute: ComputeSettings | None = None) -> None:
    """Let the batch norms of a model see the global batch, in place; nothing changes for one process or "local"."""
    if processes.count == 1 or (compute is not None and compute.bn == "local"):
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            cuda = any(tensor.is_cuda for tensor in (*module.parameters(), *module.buffers()))
            module.__class__ = NativeSyncBatchNorm2d if cuda else SyncBatchNorm2d


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over the processes; the gradient is summed likewise."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        del ctx
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        del ctx
        total = grad.clone()
        distributed.all_reduce(total)
        return total
