"""Moves between the CPU and the pretended GPU, and tensors made there; see `rp_testing.pretended_gpu`."""

from typing import Any

import torch

from rp_testing.pretended_gpu import CUDA, LOG, PretendedTensor, on_gpu


def is_cuda_device(device: Any) -> bool:
    """Whether this names a GPU: a number, a string or a device."""
    if isinstance(device, int) and not isinstance(device, bool):
        return True
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


class _Move(torch.autograd.Function):
    """Between the CPU and the pretended GPU, with a graph."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cuda: bool) -> torch.Tensor:
        ctx.was = on_gpu(x)
        return gpu_part(cpu_part(x).clone()) if cuda else cpu_part(x).clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        if ctx.was:
            return (grad if on_gpu(grad) else gpu_part(grad)), None
        return cpu_part(grad), None


def gpu_part(x: torch.Tensor) -> PretendedTensor:
    """On the pretended GPU, without a note."""
    return x if on_gpu(x) else PretendedTensor(x.detach())


def cpu_part(x: torch.Tensor) -> torch.Tensor:
    """On the CPU, without a note."""
    return x.inner if on_gpu(x) else x


_TO = torch.Tensor.to


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, bool, bool, Any]:
    """(device or None, dtype or None, non_blocking, copy, memory_format) of a call of Tensor.to."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    flags = [a for a in args if isinstance(a, bool)]
    for a in args:
        if isinstance(a, torch.Tensor):
            device, dtype = (CUDA if on_gpu(a) else torch.device("cpu")), a.dtype
        elif isinstance(a, torch.dtype):
            dtype = a
        elif isinstance(a, str | torch.device) or (isinstance(a, int) and not isinstance(a, bool)):
            device = torch.device("cuda", a) if isinstance(a, int) else torch.device(a)
    other = kwargs.get("other")
    if other is not None:
        device, dtype = (CUDA if on_gpu(other) else torch.device("cpu")), other.dtype
    non_blocking = kwargs.get("non_blocking", flags[0] if flags else False)
    copy = kwargs.get("copy", flags[1] if len(flags) > 1 else False)
    if device is not None:
        device = torch.device(device)
    return device, dtype, bool(non_blocking), bool(copy), kwargs.get("memory_format")


def moved(x: torch.Tensor, cuda: bool, *, non_blocking: bool, what: str) -> torch.Tensor:
    """A tensor on the other device, with a note of what that costs."""
    if cuda == on_gpu(x):
        return x
    if cuda:
        pinned = getattr(x, "_pretended_pinned", False)
        LOG.note("h2d:async" if pinned and non_blocking else "h2d", f"{what} {tuple(x.shape)} {str(x.dtype)[6:]}")
    else:
        LOG.note("d2h", f"{what} {tuple(x.shape)} {str(x.dtype)[6:]}")
    LOG.launched()
    if x.requires_grad and torch.is_grad_enabled():
        return _Move.apply(x, cuda)
    return gpu_part(x.clone()) if cuda else cpu_part(x).clone()


def to(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`."""
    device, dtype, non_blocking, copy, memory = _parse_to(args, kwargs)
    if device is not None and device.type == "meta":
        return _TO(cpu_part(x), *args, **kwargs)
    cuda = on_gpu(x) if device is None else device.type == "cuda"
    crossed = cuda != on_gpu(x)
    y = moved(x, cuda, non_blocking=non_blocking, what="to")
    rest: dict[str, Any] = {} if memory is None else {"memory_format": memory}
    if dtype is not None or rest or (copy and not crossed):
        y = _TO(y, dtype=dtype or y.dtype, copy=copy and not crossed, **rest)
    return y


def factory(name: str, real: Any) -> Any:
    """`torch.zeros` and others, which take a device."""

    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        data = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if data is not None and on_gpu(data) and name in ("tensor", "as_tensor"):
            y = moved(data, is_cuda_device(CUDA if device is None else device), non_blocking=False, what=name)
            dtype = kwargs.get("dtype")
            return y if dtype is None else _TO(y, dtype=dtype)
        if not is_cuda_device(device):
            return real(*args, **kwargs)
        if data is not None and not on_gpu(data) and name == "as_tensor":
            return to(data, CUDA, dtype=kwargs.get("dtype") or data.dtype)
        y = real(*args, **{**kwargs, "device": torch.device("cpu")})
        requires_grad, y = y.requires_grad, gpu_part(y)
        if name in ("tensor", "as_tensor"):
            LOG.note("h2d", f"{name} {tuple(y.shape)}")
        LOG.launched()
        return y.requires_grad_() if requires_grad else y

    return make


def maker(name: str, real: Any) -> Any:
    """`zeros_like` and `new_zeros`, with a device of their own or that of the tensor."""

    def make(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is None and name != "new_tensor":
            return real(x, *args, **kwargs)
        cuda = on_gpu(x) if device is None else is_cuda_device(device)
        y = real(cpu_part(x), *args, **{**kwargs, "device": torch.device("cpu")})
        if not cuda:
            return y
        if name == "new_tensor":
            LOG.note("h2d", name)
        LOG.launched()
        return gpu_part(y)

    return make
