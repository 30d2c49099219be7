"""Random numbers that depend on what they are for, not on when or in which batch they are drawn.

Each value is a function of (seed, image index, purpose, position): Philox-4x32-10, a counter-based generator, run as
integer tensor operations, on a GPU as one compiled kernel. The draws for image 17 are the same in a batch of 1 or 512,
on a CPU or a GPU, in one process or eight, and nothing that an attack does to a global generator can change them.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

import hashlib
import math
import secrets
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from rp_models import noise_kernels
from rp_models.philox import philox
from rp_models.values import send

_LOW_32_BITS = 0xFFFFFFFF
_LOCK = threading.Lock()
_MAX_ELEMENTS = 2**34  # the position inside one image's draw fills one 32-bit counter word, four values a count


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 64-bit seed for one purpose, from a run's seed; a fixed hash, the same on every machine.

    `seed`: the run's seed. `purpose`: what the numbers are for, most general first, e.g. `("augmentation", epoch)`.
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class CallSeeds:
    """A seed for each call of something random that is called without one; safe among threads.

    `seed`: gives every process the same sequence; None draws each from the system's entropy, so that nobody can predict
    it.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed, self._calls = seed, 0

    def next(self) -> int:
        """The next call's seed."""
        if self.seed is None:
            return secrets.randbits(63)
        with _LOCK:
            self._calls += 1
            return derive_seed(self.seed, "call", self._calls)


def uniform(
    shape: Sequence[int], *, seed: int, purpose: str, index: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform draws in [0, 1) for each image, equal to k / 2^24 with integer k. Returns a tensor (batch, *shape).

    Args:
        shape: shape of one image's draw, e.g. `(tokens,)` or `(channels, height, width)`.
        seed: the run's seed, any integer.
        purpose: what the numbers are for; different purposes give independent numbers.
        index: integer tensor (batch,), one image index each; its device is the result's device.
        dtype: of the result.
    """
    drawn = _compiled("uniform", shape, seed, purpose, index)
    if drawn is None:
        drawn = (_words(shape, seed, purpose, index) >> 8).to(torch.float64) * 2.0**-24
    return drawn.to(dtype).reshape(len(index), *shape)


def normal(
    shape: Sequence[int], *, seed: int, purpose: str, index: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal draws for each image (Box-Muller transform of `uniform`'s generator).

    Arguments and shapes as in `uniform`. Values agree between devices to the rounding of log and cos.
    """
    drawn = _compiled("normal", shape, seed, purpose, index)
    if drawn is not None:
        return drawn.to(dtype).reshape(len(index), *shape)
    count = math.prod(shape)
    words = _words((2, (count + 1) // 2), seed, purpose, index).to(torch.float64)
    first, second = ((words + 0.5) * 2.0**-32).unbind(dim=1)  # in the open interval (0, 1)
    radius, angle = (-2.0 * first.log()).sqrt(), 2.0 * math.pi * second
    pair = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pair[:, :count].to(dtype).reshape(len(index), *shape)


def integers(high: int, shape: Sequence[int], *, seed: int, purpose: str, index: Tensor) -> Tensor:
    """Integer draws in [0, high) for each image; bias below high / 2^32.

    Arguments as in `uniform`; `high` must be in 1..2^31. Returns a tensor (batch, *shape) of int64.
    """
    if not 1 <= high <= 2**31:
        raise ValueError(f"high must be in 1..2^31, got {high}")
    drawn = _compiled("integers", shape, seed, purpose, index, high)
    if drawn is None:
        drawn = (_words(shape, seed, purpose, index) * high) >> 32
    return drawn.reshape(len(index), *shape)


def permutation(count: int, *, seed: int, purpose: str, device: torch.device | str = "cpu") -> Tensor:
    """A random order of 0..count-1, the same on every device. Returns a tensor (count,) of int64."""
    index = torch.zeros(1, dtype=torch.int64, device=device)
    high, low = _words((2, count), seed, purpose, index)[0]
    keys = (high << 31) | (low >> 1)  # 63 bits: ties are as good as impossible, and the stable sort settles them
    return torch.argsort(keys, stable=True)


def _compiled(draw: str, shape: Sequence[int], seed: int, purpose: str, index: Tensor, high: int = 0) -> Tensor | None:
    """The draws (batch, values) of one kernel of `rp_models.noise_kernels`, None where nothing is compiled."""
    if _on_cpu(index):
        return None
    kernel = noise_kernels.compiled_draw(getattr(noise_kernels, draw), index.device)
    count = _count(shape, index)
    if kernel is None or count == 0 or len(index) == 0:
        return None
    key = derive_seed(seed, purpose)
    numbers = send(torch.tensor([key & _LOW_32_BITS, key >> 32, high]), index.device)
    return kernel(index, numbers, count)


def _on_cpu(index: Tensor) -> bool:
    """Whether the draws are made on the CPU, where four words at once are fastest."""
    return index.device.type == "cpu"


def _count(shape: Sequence[int], index: Tensor) -> int:
    """The number of values of one image's draw, after a look at what was asked for."""
    if index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"index must be a 1-D int64 tensor of image indices, got {tuple(index.shape)} {index.dtype}")
    count = math.prod(shape)
    if count >= _MAX_ELEMENTS:
        raise ValueError(f"one image's draw is limited to {_MAX_ELEMENTS} values, got shape {tuple(shape)}")
    return count


def _words(shape: Sequence[int], seed: int, purpose: str, index: Tensor) -> Tensor:
    """Random 32-bit words as int64, (batch, *shape): counters are (position, 0, index low, index high)."""
    count = _count(shape, index)
    key = derive_seed(seed, purpose)
    position = torch.arange((count + 3) // 4, device=index.device)
    counter = torch.broadcast_tensors(
        position,
        torch.zeros_like(position),
        (index & _LOW_32_BITS)[:, None],
        (index >> 32 & _LOW_32_BITS)[:, None],
    )
    words = torch.stack(philox(list(counter), (key & _LOW_32_BITS, key >> 32)), dim=-1)
    return words.flatten(1)[:, :count].reshape(len(index), *shape)
