"""Faster linear layers on AMD processors.

On x86 torch multiplies float32 matrices with MKL, which leaves AMD processors at about half of their speed; oneDNN,
which torch carries too, does not. This is a switch for whoever purifies on such a machine:

    with onednn_linear():
        purified = purifier(x)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
_WORTHWHILE = 2**16  # weights below this many values gain less than the conversion costs


class onednn_linear(TorchFunctionMode):
    """Inside the block, linear layers with frozen weights run in oneDNN; values agree to rounding.

    Only float32 on the CPU, without autocast, and matrices of 65,536 values or more; everything else is as before. Any
    number of derivatives in the input can be taken. Purifiers freeze their weights themselves; for a classifier, call
    `requires_grad_(False)`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, from oneDNN if it is a linear layer that can gain."""
        if func is F.linear and not kwargs and _gains(*args):
            return _Linear.apply(*args[:2], args[2] if len(args) == 3 else None)
        return func(*args, **(kwargs or {}))


def _gains(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a linear layer can run in oneDNN and is large enough."""
    return (
        weight.numel() >= _WORTHWHILE
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not weight.requires_grad
        and (bias is None or not bias.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


class _Linear(torch.autograd.Function):
    """x W^T + b, differentiable in x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        result: Tensor = _aten.mkldnn_linear(x.contiguous().to_mkldnn(), weight, bias).to_dense()
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _LinearBackward.apply(grad_outputs[0], ctx.weight), None, None


class _LinearBackward(torch.autograd.Function):
    """g W, differentiable in g: the gradient of `_Linear`, and the other way round."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        shape = [*g.shape[:-1], weight.shape[1]]
        result: Tensor = _aten.mkldnn_linear_backward_input(shape, g.contiguous().to_mkldnn(), weight).to_dense()
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return _Linear.apply(grad_outputs[0], ctx.weight, None), None
