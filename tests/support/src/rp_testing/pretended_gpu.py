"""A pretended GPU: tensors that say `cuda:0` and keep their values on the CPU, so that GPU paths run without a GPU.

What it finds, with the caller's line for each event:
- device mix-ups: an operation on a tensor of the "GPU" and one of the CPU raises, as CUDA does;
- waits: whatever stops the host (`item`, `tolist`, `nonzero`, boolean masks, copies to the CPU, copies to the GPU from
  pageable memory), see `Event`;
- launches: operations on the "GPU", each at least one kernel.

What it does not find: numerical differences, memory, the order of streams, kernels that do not exist.

`PretendedTensor` is a wrapper subclass. For C++ it is a CPU tensor without storage, so that autograd and autocast run
as on a CPU; for Python its `device` is `cuda:0`. (A wrapper whose C++ device is CUDA cannot run backward without a
driver.) `rp_testing.pretended_gpu_patches` replaces factories, moves and the few questions asked of `torch.cuda`;
patches reach threads and backward passes, which function modes do not.
"""

import collections
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
_OWN = ("rp_testing/pretended_gpu.py", "rp_testing/pretended_gpu_patches.py")

# operations whose result's size, or value on the host, depends on device data: the host waits for the stream
_SYNCING = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "bool",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten.bincount.default: "bincount",
}
# these run through cuSOLVER or MAGMA, which synchronise
_SOLVERS = {
    *("linalg_eigh", "_linalg_eigh", "_linalg_svd", "linalg_svd", "linalg_qr"),
    *("_linalg_solve_ex", "linalg_inv_ex", "linalg_cholesky_ex"),
}
_INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}
_MIXED_ALLOWED = {"_to_copy", "copy_", "_foreach_copy_", *_INDEXING}
_VIEWLIKE = {
    *("view", "_unsafe_view", "detach", "alias", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze"),
    *("squeeze", "split", "split_with_sizes", "unbind", "as_strided", "reshape", "diagonal", "lift_fresh", "lift"),
    *("_reshape_alias", "chunk", "unfold", "view_as_real", "view_as_complex"),
}


@dataclass(frozen=True)
class Event:
    """One thing that happened: "sync:item", "sync:mask", ..., "h2d", "h2d:async" or "d2h"."""

    kind: str
    what: str
    where: str

    @property
    def waits(self) -> bool:
        """Whether the host stood still."""
        return self.kind.startswith("sync") or self.kind in ("h2d", "d2h")


@dataclass
class Log:
    """What was seen since the last `clear`."""

    events: list[Event] = field(default_factory=list)
    launches: int = 0
    where: collections.Counter[str] = field(default_factory=collections.Counter)  # launches by the caller's line

    def clear(self) -> None:
        """Forget."""
        self.events.clear()
        self.where.clear()
        self.launches = 0

    @property
    def waits(self) -> int:
        """How often the host had to wait for the stream."""
        return sum(event.waits for event in self.events)

    def launched(self, count: int = 1) -> None:
        """Count kernels."""
        self.launches += count
        self.where[_where(1)] += count

    def note(self, kind: str, what: str) -> None:
        """Remember an event."""
        self.events.append(Event(kind, what, _where()))

    def summary(self, top: int = 12) -> str:
        """Waits and launches, and where the waits come from."""
        places = collections.Counter((e.kind, e.what, e.where) for e in self.events if e.waits)
        lines = [f"{self.waits} waits, {self.launches} launches"]
        return "\n".join([*lines, *(f"  {n} x {' '.join(place)}" for place, n in places.most_common(top))])


LOG = Log()


def _where(depth: int = 3) -> str:
    """The innermost frames that belong to the code under test."""
    return " < ".join(line for line, _ in zip(_frames(), range(depth), strict=False)) or "(torch or test)"


def _frames() -> Iterator[str]:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.endswith(_OWN) and ("/rp_" in name or "/apps/" in name or "pyautoattack" in name):
            yield f"{name.split('/src/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]


def on_gpu(value: Any) -> bool:
    """Whether this is a tensor of the pretended GPU."""
    return isinstance(value, PretendedTensor)


def bare(values: Any) -> Any:
    """The same with the CPU tensors inside of pretended ones."""
    return tree_map_only(PretendedTensor, lambda x: x.inner, values)


class PretendedTensor(torch.Tensor):
    """See the module."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, requires_grad: bool = False) -> "PretendedTensor":
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=inner.device,
            requires_grad=requires_grad,
        )
        out.inner = inner
        return out

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _from_the_engine() -> bool:
    """Whether C++ derivatives ask: they make constants on the C++ device, which is the CPU here."""
    frame = sys._getframe(2)
    skipped = ("torch/_ops.py", "torch/utils/_python_dispatch.py", "torch/_dynamo/eval_frame.py", "torch/_compile.py")
    while frame is not None and frame.f_code.co_filename.endswith((*_OWN, *skipped)):
        frame = frame.f_back  # type: ignore[assignment]
    engine = ("torch/autograd/graph.py", "torch/autograd/__init__.py")
    return frame is not None and frame.f_code.co_filename.endswith(engine)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation with at least one tensor of the pretended GPU."""
    name = func._schema.name.split("::")[1]
    _refuse_mixtures(name, args, kwargs)
    if name in _INDEXING:
        _indexing(name, args)
    if name in ("copy_", "_foreach_copy_"):
        _copies(args)
    elif func in _SYNCING or name in _SOLVERS or name == "repeat_interleave":
        LOG.note(f"sync:{_SYNCING.get(func, 'solver' if name in _SOLVERS else name)}", name)
    if name not in _VIEWLIKE:
        LOG.launched()
    plain, named = bare((args, kwargs))
    if named.get("device") is not None:
        named = {**named, "device": torch.device("cpu")}
    out = func(*plain, **named)
    if name == "_local_scalar_dense":
        return out
    return return_and_correct_aliasing(func, args, kwargs, tree_map_only(torch.Tensor, PretendedTensor, out))


def _refuse_mixtures(name: str, args: Any, kwargs: Any) -> None:
    """What CUDA says to tensors of two devices; numbers (tensors without axes) may come from the CPU."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    shapes = [tuple(x.shape) for x in tensors if not on_gpu(x) and x.dim() > 0]
    if shapes and name not in _MIXED_ALLOWED and not _from_the_engine():
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({name}, CPU tensors {shapes}, at {_where()})"
        )


def _indexing(name: str, args: Any) -> None:
    """Indices may come from the CPU, which waits; a boolean index is a nonzero."""
    indices = [i for i in args[1] if i is not None]
    if not on_gpu(args[0]) and any(on_gpu(i) for i in indices):
        raise RuntimeError(f"indices should be on the same device as the indexed tensor (cpu), at {_where()}")
    if "put" in name and not on_gpu(args[2]) and args[2].dim() > 0:
        raise RuntimeError(f"Expected all tensors to be on the same device ({name} of a CPU value), at {_where()}")
    for i in indices:
        if not on_gpu(i):
            LOG.note("h2d", f"{name} by a CPU index")
        elif i.dtype in (torch.bool, torch.uint8):
            LOG.note("sync:mask", name)


def _copies(args: Any) -> None:
    """Copies between the devices."""
    pairs = zip(args[0], args[1], strict=True) if isinstance(args[0], list | tuple) else [(args[0], args[1])]
    for target, source in pairs:
        if on_gpu(target) and not on_gpu(source):
            pinned = getattr(source, "_pretended_pinned", False)
            LOG.note("h2d:async" if pinned else "h2d", f"copy_ {tuple(source.shape)}")
        elif not on_gpu(target) and on_gpu(source):
            LOG.note("d2h", f"copy_ {tuple(source.shape)}")
