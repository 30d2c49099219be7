"""fp32, TF32 or bfloat16: in which precision matrix products and convolutions are computed.

Parameters, sums, heads and losses stay in float32 in each of them. There is no float16: gradients with respect to
images are so small that it rounds many of them to zero, and an attack has no loss to scale.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from rp_models.settings import PRECISIONS, InferenceSettings, Precision, check_choice

Network = TypeVar("Network", bound=nn.Module)
_ASKED = (  # of a network, what others call, besides its `forward`
    "forward", "forward_features", "features", "loss", "reconstruct", "encode", "decode", "guided", "condition",
    "embed", "embed_latent", "attention_maps", "with_variance",
)  # fmt: skip
_HEADS = ("head", "fc", "linear", "classifier", "logits")
_plain = 0  # how many blocks of `full_precision` are open; of the process, since gradients have threads of their own


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Matrix products and convolutions in bfloat16, if that is the precision; the meta device has none."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def present_autocast(device: torch.device) -> AbstractContextManager[object]:
    """What autocast is now, for what is computed again inside a backward pass, which begins without it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Inside the block, GPUs multiply float32 numbers in TF32 for "tf32", exactly otherwise; of the whole process."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _allow_tf32(precision == "tf32")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _allow_tf32(allowed: bool) -> None:
    """By the older of torch's two ways, which libraries read: it refuses to be read after the newer one was used."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def use(compute: InferenceSettings) -> None:
    """Turn the switches of the process: TF32, and algorithms that give the same numbers again."""
    _allow_tf32(compute.precision == "tf32")
    if compute.deterministic:
        be_deterministic()


def be_deterministic() -> None:
    """Let the process use only algorithms that give the same numbers again on the same GPU; there is no way back."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside the block, the networks of `in_precision` compute in float32, backward passes too; of the process."""
    global _plain
    _plain += 1
    try:
        with float32_products("fp32"):
            yield
    finally:
        _plain -= 1


def in_precision(network: Network, precision: Precision) -> Network:
    """Let a network compute in a precision whoever asks it, in place; what comes out of it is float32.

    Its class becomes a subclass that says so, so that identities differ; its state dict stays as it was. A pass that
    is replayed inside a backward pass has the same precision as the first. TF32 is a switch of the process, see
    `use`. Returns the network.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision != "fp32" and not hasattr(network, "precision_of_products"):
        module: nn.Module = network
        module.__class__ = _in(type(module), precision)  # type: ignore[arg-type]
        if precision == "bf16":
            keep_heads(network)
    return network


@cache
def _in(kind: type[nn.Module], precision: Precision) -> type[nn.Module]:
    """The subclass of a network's class that computes in a precision."""
    asked = {name: _cast(getattr(kind, name), precision) for name in _ASKED if callable(getattr(kind, name, None))}
    return type(f"{kind.__name__}_{precision}", (kind,), {**asked, "precision_of_products": precision})


def _cast(method: Callable[..., Any], precision: Precision) -> Callable[..., Any]:
    """A method of a network in a precision, whose results are float32."""

    @wraps(method)
    def inside(self: nn.Module, *args: Any, **options: Any) -> Any:
        if _plain or precision != "bf16":
            return method(self, *args, **options)
        device = next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        with autocast(device, precision):
            return tree_map(_widened, method(self, *args, **options))

    return inside


def _widened(value: Any) -> Any:
    """A bfloat16 tensor as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


class FullPrecisionLinear(nn.Linear):
    """A linear layer that computes in float32 under autocast too; same entries in the state dict."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., out_features), in float32 at least, of inputs (..., in_features)."""
        if not torch.amp.is_autocast_available(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(torch.promote_types(x.dtype, self.weight.dtype)), self.weight, self.bias)


def keep_heads(network: nn.Module) -> None:
    """Let the last linear layer of a classifier compute in float32 under autocast, in place."""
    for name in _HEADS:
        if type(head := getattr(network, name, None)) is nn.Linear:
            head.__class__ = FullPrecisionLinear
