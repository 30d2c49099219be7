"""What is replaced in torch while code runs on the pretended GPU; see `rp_testing.pretended_gpu`."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo  # what is imported late must not meet the patches below

from rp_testing.pretended_gpu import CUDA, LOG, Log, PretendedTensor, bare, on_gpu
from rp_testing.pretended_gpu_moves import factory, gpu_part, maker, moved, to

_FACTORIES = (
    *(
        "zeros",
        "ones",
        "empty",
        "full",
        "arange",
        "linspace",
        "logspace",
        "rand",
        "randn",
        "randint",
        "randperm",
        "eye",
    ),
    *("eye", "tensor", "as_tensor", "scalar_tensor", "empty_strided", "hann_window"),
)
_LIKE = ["zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"]
_NEW = ["new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"]


def _mover(name: str) -> Any:
    def move(x: torch.Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> torch.Tensor:
        return moved(x, name == "cuda", non_blocking=non_blocking, what=name)

    return move


def _refusing(real: Any, message: str) -> Any:
    def refuse(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if on_gpu(x):
            raise TypeError(f"{message}")
        return real(x, *args, **kwargs)

    return refuse


def _patched_tolist(real: Any) -> Any:
    def tolist(x: torch.Tensor) -> Any:
        if on_gpu(x):
            LOG.note("sync:tolist", str(tuple(x.shape)))
            return x.inner.tolist()
        return real(x)

    return tolist


def _patched_format(real: Any) -> Any:
    def format_(x: torch.Tensor, spec: str) -> str:
        if on_gpu(x) and x.dim() == 0:
            return x.item().__format__(spec)
        return real(x, spec)

    return format_


def _patched_pin(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if on_gpu(x):
        raise RuntimeError("cannot pin a CUDA tensor")
    y = x.clone()
    y._pretended_pinned = True  # type: ignore[attr-defined]
    return y


def _patched_one_hot(real: Any) -> Any:
    def one_hot(x: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
        if not on_gpu(x):
            return real(x, num_classes)
        if num_classes < 0:
            LOG.note("sync:item", "one_hot without num_classes")
        LOG.launched(2)
        return gpu_part(real(x.inner, num_classes))

    return one_hot


def _whole(real: Any) -> Any:
    """An operation that C++ composes of others, with constants that it would make on the wrong device here."""

    def whole(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not on_gpu(x):
            return real(x, *args, **kwargs)
        LOG.launched(3)
        plain, named = bare((args, kwargs))
        return gpu_part(real(x.detach().inner, *plain, **named))

    return whole


def _patched_attention(real: Any) -> Any:
    def attention(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not on_gpu(q):
            return real(q, *args, **kwargs)
        names = ("attn_mask", "dropout_p", "is_causal", "scale")
        chosen = {k: v for k, v in kwargs.items() if k in names}
        return torch.ops.aten._scaled_dot_product_attention_math.default(q, *args[:2], *args[2:], **chosen)[0]

    return attention


class _Generator(torch.Generator):
    """A generator of any device, on the CPU."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        return torch._C.Generator()


def _grouped(real: Any) -> Any:
    """The grouping of optimisers, which asks C++ for devices."""

    def grouped(tensors: Any, with_indices: bool = False) -> Any:
        found = real(tensors, with_indices)
        sim = any(on_gpu(t) for column in tensors for t in column if t is not None)
        return {(CUDA, dtype): value for (_, dtype), value in found.items()} if sim else found

    return grouped


class _Stream:
    """A stream, or an event of one; nothing runs beside anything else here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, stream: "_Stream") -> None:
        """Nothing to wait for."""

    def wait_event(self, event: "_Stream") -> None:
        """Nothing to wait for."""

    def record_event(self) -> "_Stream":
        """An event."""
        return _Stream()


Patch = Callable[[Any, str, Any], None]


def _patch_cuda(patch: Patch) -> None:
    """What is asked of `torch.cuda`."""
    cuda, states = torch.cuda, dict[int, torch.Tensor]()
    for name, value in {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": True,
        "current_device": 0,
        "device_count": 1,
        "set_device": None,
        "get_device_name": "pretended GPU",
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "stream": contextlib.nullcontext(),
        "current_stream": _Stream(),
    }.items():
        patch(cuda, name, lambda *_, _value=value, **__: _value)
    patch(cuda, "Stream", _Stream)
    patch(cuda, "synchronize", lambda device=None: LOG.note("sync:synchronize", ""))
    for owner in (cuda, importlib.import_module("torch.cuda.random")):
        patch(owner, "manual_seed", lambda seed: None)
        patch(owner, "manual_seed_all", lambda seed: None)
        patch(owner, "get_rng_state", lambda device=0: states.get(0, torch.zeros(16, dtype=torch.uint8)))
        patch(owner, "set_rng_state", lambda state, device=0: states.__setitem__(0, state))


def _patch_optimizers(patch: Patch) -> None:
    """Optimisers ask C++ for the devices of their tensors."""
    optimizer, foreach, clip = (
        importlib.import_module(f"torch.{name}")
        for name in ("optim.optimizer", "utils._foreach_utils", "nn.utils.clip_grad")
    )
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        if hasattr(optimizer.Optimizer, name):
            patch(optimizer.Optimizer, name, lambda self: None)
    patch(optimizer, "_foreach_supported_types", [torch.Tensor, torch.nn.Parameter, PretendedTensor])
    grouped = _grouped(foreach._group_tensors_by_device_and_dtype)
    for owner in (foreach, clip, optimizer):
        patch(owner, "_group_tensors_by_device_and_dtype", grouped)


def _patch_tensors(patch: Patch) -> None:
    """Factories, moves, and what C++ composes of other operations."""
    tensor, functional = torch.Tensor, torch.nn.functional
    for name in _FACTORIES:
        patch(torch, name, factory(name, getattr(torch, name)))
    for owner, names in ((torch, _LIKE), (tensor, _NEW)):
        for name in names:
            patch(owner, name, maker(name, getattr(owner, name)))
    patch(tensor, "to", to)
    patch(tensor, "cpu", _mover("cpu"))
    patch(tensor, "cuda", _mover("cuda"))
    for name in ("numpy", "__array__"):
        patch(tensor, name, _refusing(getattr(tensor, name), "can't convert cuda:0 device type tensor to numpy"))
    patch(tensor, "tolist", _patched_tolist(tensor.tolist))
    patch(tensor, "__format__", _patched_format(tensor.__format__))
    patch(tensor, "pin_memory", _patched_pin)
    patch(tensor, "is_pinned", lambda x, *args: getattr(x, "_pretended_pinned", False))
    patch(tensor, "record_stream", lambda x, stream: None)
    for owner, name in ((torch, "quantile"), (tensor, "quantile"), (torch, "nanquantile"), (tensor, "nanquantile")):
        patch(owner, name, _whole(getattr(owner, name)))
    patch(functional, "one_hot", _patched_one_hot(functional.one_hot))
    patch(functional, "scaled_dot_product_attention", _patched_attention(functional.scaled_dot_product_attention))


def _patched_module_to(real: Any) -> Any:
    """`Module.to`; a change of layout alone is left out, since it would make new parameters here, unlike on CUDA."""

    def module_to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        pretended = any(map(on_gpu, self.parameters()))
        return self if pretended and not args and kwargs.keys() == {"memory_format"} else real(self, *args, **kwargs)

    return module_to


def _patched_autocast(real: Any) -> Any:
    """Autocast for "cuda" that casts what C++ takes for tensors of the CPU."""

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type == "cuda" and not args and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float16
        real(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return init


@contextlib.contextmanager
def pretended_gpu() -> Iterator[Log]:
    """Inside the block there is a GPU, "cuda:0"; gives the log of what happens on it."""
    undo: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    autocast = torch.amp.autocast_mode.autocast
    LOG.clear()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        patch(autocast, "__init__", _patched_autocast(autocast.__init__))
        patch(torch, "Generator", _Generator)
        patch(torch.nn.Module, "to", _patched_module_to(torch.nn.Module.to))
        _patch_cuda(patch)
        _patch_optimizers(patch)
        _patch_tensors(patch)
        yield LOG
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)
