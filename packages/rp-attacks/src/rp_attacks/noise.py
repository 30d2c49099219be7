"""Random numbers that depend on what they are for, not on when or in which batch they are drawn.

Each value is a function of (seed, image index, purpose, position): Philox-4x32-10, a counter-based generator, run as
integer tensor operations on the index's device. An attack's result therefore does not depend on how images are batched,
and the global generators are neither read nor changed. The numbers are those of `rp_models.noise`.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS, _KEY_STEPS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 64-bit seed for one purpose from a run's seed, the same on every machine.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, most general first.
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(shape: Sequence[int], *, seed: int, purpose: str, index: Tensor, like: Tensor) -> Tensor:
    """Uniform draws for each image, equal to k / 2^24 with integer k from 0 to 2^24 - 1.

    Args:
        shape: of one image's draw.
        seed: the attack's seed.
        purpose: what the numbers are for; other purposes give independent numbers.
        index: int64 (b,), which image each row is.
        like: a tensor whose device and dtype (float32 or float64) the result takes.

    Returns:
        Tensor (b, *shape).
    """
    words = _words(math.prod(shape), derive_seed(seed, purpose), index)
    return ((words >> 8).to(torch.float64) * 2.0**-24).reshape(len(index), *shape).to(like)


def normal(shape: Sequence[int], *, seed: int, purpose: str, index: Tensor, like: Tensor) -> Tensor:
    """Standard normal draws for each image (Box-Muller transform); arguments as in `uniform`."""
    half = (math.prod(shape) + 1) // 2
    words = _words(2 * half, derive_seed(seed, purpose), index).to(torch.float64)
    first, second = ((words + 0.5) * 2.0**-32).split(half, dim=1)  # in the open interval (0, 1)
    radius, angle = (-2.0 * first.log()).sqrt(), 2.0 * math.pi * second
    pair = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pair[:, : math.prod(shape)].reshape(len(index), *shape).to(like)


def _words(count: int, key: int, index: Tensor) -> Tensor:
    """Random 32-bit words as int64, (b, count): the counters are (position, 0, index low, index high)."""
    if index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"index must be a 1-D int64 tensor of image indices, got {tuple(index.shape)} {index.dtype}")
    position = torch.arange((count + 3) // 4, device=index.device)[None]
    words = [position, torch.zeros_like(position), (index & _LOW)[:, None], (index >> 32 & _LOW)[:, None]]
    for number in range(10):
        low, high = ((part + number * step) & _LOW for part, step in zip((key, key >> 32), _KEY_STEPS, strict=True))
        # the 64-bit products wrap around into the sign bit, which the masks make harmless
        left, right = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = [
            (right >> 32 & _LOW) ^ words[1] ^ low,
            right & _LOW,
            (left >> 32 & _LOW) ^ words[3] ^ high,
            left & _LOW,
        ]
    return torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(1)[:, :count]
