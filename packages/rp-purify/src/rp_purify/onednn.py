"""Faster linear layers on x86 processors, above all AMD's.

There torch multiplies float32 matrices with MKL, which leaves AMD processors at about half of their speed; oneDNN,
which torch carries too, does not. Sign descent takes it by itself. For everything else that runs frozen layers:

    with onednn_linear():
        logits = classifier(x)

`torch.backends.mkldnn.enabled = False` turns it off everywhere, as it does torch's own use of oneDNN.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_WORTHWHILE = 2**16  # weights below this many values gain less than the detour costs


class onednn_linear(TorchFunctionMode):
    """Inside the block, linear layers with frozen weights run in oneDNN; values agree to rounding.

    Only float32 on x86 CPUs, without autocast, and matrices of 65,536 values or more; everything else is as before.
    Any number of derivatives in the input can be taken. Purifiers freeze their weights themselves; for a classifier,
    call `requires_grad_(False)`. What torch compiles is left to the compiler.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, from oneDNN if it is a linear layer that can gain."""
        if func is F.linear and not kwargs and not torch.compiler.is_compiling() and _gains(*args):
            return _Linear.apply(*args[:2], args[2] if len(args) == 3 else None)
        return func(*args, **(kwargs or {}))


def onednn_where_it_gains(model: nn.Module) -> AbstractContextManager[object]:
    """`onednn_linear()` if one of the model's frozen layers can gain, otherwise a block without effect.

    The block looks at every call of torch, which small networks would notice.
    """
    gains = any(weight.dim() == 2 and _gains(weight, weight) for weight in model.parameters())
    return onednn_linear() if gains else nullcontext()


def _gains(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a linear layer can run in oneDNN and is large enough."""
    return (
        weight.numel() >= _WORTHWHILE
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() > 0
        and not weight.requires_grad
        and (bias is None or not bias.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkl.is_available()  # elsewhere torch takes oneDNN itself, or has none
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """X W^T + b by the operation that torch's compiler uses for it, which needs no copy of x in oneDNN's layout."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """x W^T + b, differentiable in x; its gradient is another one, with W transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(grad_outputs[0], ctx.weight.T, None), None, None
