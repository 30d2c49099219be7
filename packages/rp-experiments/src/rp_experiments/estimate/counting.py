"""Counting on fake tensors: networks of full size whose weights are never allocated."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from rp_models.arithmetic import Flops, without_onednn
from rp_models.data.info import DatasetInfo
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Sized:
    """A set of images of which only number and description are known."""

    info: DatasetInfo
    count: int
    device: torch.device = field(default_factory=lambda: torch.device("meta"))

    @property
    def labels(self) -> Tensor:
        """Of no values."""
        return torch.empty(self.count, dtype=torch.int64, device=self.device)

    def __len__(self) -> int:
        return self.count

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images without values."""
        count = len(range(self.count)[index]) if isinstance(index, slice) else len(index)
        shape = (self.info.channels, self.info.image_size, self.info.image_size)
        return torch.empty(count, *shape, device=self.device), self.labels[:count]

    def to(self, device: torch.device | str) -> "Sized":
        """Stays where it is."""
        del device
        return self


@functools.cache
def _mode() -> FakeTensorMode:
    """One for all, so that a network can be counted several times."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextlib.contextmanager
def faked(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, tensors have no values, nor have the modules from then on; these may come from the meta device."""
    with without_onednn(), _mode():
        for module in modules:
            if not any(isinstance(tensor, FakeTensor) for tensor in module.state_dict(keep_vars=True).values()):
                module.to_empty(device="cpu")
        yield


def fake_images(info: DatasetInfo, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and the numbers of draws, without values, inside `faked`."""
    x = torch.empty(count, info.channels, info.image_size, info.image_size)
    return x, torch.zeros(count, dtype=torch.int64), torch.arange(count)


def counted(work: Callable[[], object]) -> Flops:
    """The operations of some work, and the most memory that what it made took at one time."""
    with Flops() as flops:
        kept = work()
    del kept
    return flops


def weights(modules: Iterable[nn.Module]) -> int:
    """Bytes of parameters and buffers, each once."""
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def meta_copy(module: Module) -> Module:
    """A network like another one, of the same size and mode, without values."""
    tensors = {id(t): t.to("meta") for t in module.buffers()}
    parameters = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, {**tensors, **parameters})


def on_meta(build: Callable[[], Module]) -> Module:
    """A network of full size whose weights are not allocated."""
    with torch.device("meta"):
        return build()
