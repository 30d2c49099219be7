"""Counts the floating-point operations and the memory of what runs, on real or on fake tensors.

Two operations for each multiplication with addition; matrix products, convolutions and attention count, the rest does
not.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def operations(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """The floating-point operations of one call of an operator; 0 of those that are not counted."""
    if packet not in flop_registry:
        return 0
    if packet is torch.ops.aten.convolution_backward:
        return _convolution_backward(*args)
    return int(flop_registry[packet](*args, **kwargs, out_val=out))


def _convolution_backward(grad_out: Tensor, x: Tensor, weight: Tensor, *options: Any) -> int:
    """One forward pass each for the gradients of input and weights; torch's own formula counts groups as dense."""
    transposed, mask = options[4], options[-1]
    places = (x if transposed else grad_out).numel()
    return 2 * places * weight.numel() // weight.shape[0] * (int(mask[0]) + int(mask[1]))


class Flops(TorchDispatchMode):
    """`with Flops() as counted: ...; counted.total, counted.peak`.

    torch's own `FlopCounterMode` follows modules by hooks, which `torch.autograd.grad` does not support.

    Attributes:
        total: floating-point operations.
        peak: the most bytes that tensors made inside held at one time; those made before do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total, self.peak, self._held = 0, 0, 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in flop_registry and func is not torch.ops.prim.device.default:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        given = {_key(each) for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        out = func(*args, **kwargs)
        self.total += operations(func._overloadpacket, args, kwargs, out)
        for each in torch.utils._pytree.tree_leaves(out):
            if isinstance(each, Tensor) and _key(each) not in given:  # neither a view nor written in place
                self._made(each)
        return out

    def _made(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self._held += storage.nbytes()
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self._held -= self._alive.pop(key)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Inside, frozen layers on a CPU run by operators that are counted, as on a GPU, and not by oneDNN's own."""
    mkldnn: Any = torch.backends.mkldnn
    before, mkldnn.enabled = mkldnn.enabled, False
    try:
        yield
    finally:
        mkldnn.enabled = before


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
