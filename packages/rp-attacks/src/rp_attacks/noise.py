"""Random numbers drawn image by image, so that an attack's result does not depend on how images are batched.

Each image's numbers are a function of (seed, image index, purpose). They are drawn on the CPU and moved, and so are the
same on every device; the global generators are neither read nor changed.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 64-bit seed for one purpose from a run's seed, the same on every machine.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, most general first.
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(shape: Sequence[int], *, seed: int, purpose: str, index: Tensor, like: Tensor) -> Tensor:
    """Uniform draws in [0, 1) for each image.

    Args:
        shape: of one image's draw.
        seed: the attack's seed.
        purpose: what the numbers are for; other purposes give independent numbers.
        index: int64 (b,), which image each row is.
        like: a tensor whose device and dtype the result takes.

    Returns:
        Tensor (b, *shape).
    """
    return _per_image(torch.rand, shape, seed, purpose, index, like)


def normal(shape: Sequence[int], *, seed: int, purpose: str, index: Tensor, like: Tensor) -> Tensor:
    """Standard normal draws for each image; arguments as in `uniform`."""
    return _per_image(torch.randn, shape, seed, purpose, index, like)


def _per_image(
    draw: Callable[..., Tensor], shape: Sequence[int], seed: int, purpose: str, index: Tensor, like: Tensor
) -> Tensor:
    result = torch.empty(len(index), *shape)
    generator = torch.Generator()
    for row, image in enumerate(index.tolist()):
        generator.manual_seed(derive_seed(seed, purpose, image))
        draw(tuple(shape), generator=generator, out=result[row])
    return result.to(device=like.device, dtype=like.dtype)
