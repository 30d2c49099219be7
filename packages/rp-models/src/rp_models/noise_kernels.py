"""The draws of `rp_models.noise` for a GPU: each value reckoned for itself, so that a compiler makes one kernel of it.

`noise` itself reckons four words at once, which is less work; but without a compiler it is 130 launches a draw.
"""

import importlib.util
import math
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from rp_models.philox import philox

Draw = Callable[[Tensor, Tensor, int], Tensor]
"""Image numbers int64 (b,), the key's two words and the bound of integers int64 (3,), values an image: (b, values)."""


def uniform(index: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Uniform draws in [0, 1), float64 (b, count)."""
    return (_words(torch.arange(count, device=index.device), index, numbers) >> 8).to(torch.float64) * 2.0**-24


def integers(index: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Integer draws below the bound, int64 (b, count)."""
    return (_words(torch.arange(count, device=index.device), index, numbers) * numbers[2]) >> 32


def normal(index: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Standard normal draws, float64 (b, count): the cosines of all pairs, then their sines."""
    half, place = (count + 1) // 2, torch.arange(count, device=index.device)
    pair = torch.where(place < half, place, place - half)
    first, second = (
        (_words(where, index, numbers).to(torch.float64) + 0.5) * 2.0**-32 for where in (pair, pair + half)
    )
    radius, angle = (-2.0 * first.log()).sqrt(), 2.0 * math.pi * second
    return radius * torch.where(place < half, angle.cos(), angle.sin())


def _words(position: Tensor, index: Tensor, numbers: Tensor) -> Tensor:
    """The random words at these positions (n,) of each image, int64 (b, n)."""
    image = index[:, None]
    block = position >> 2
    counter = [block, torch.zeros_like(block), image & 0xFFFFFFFF, image >> 32 & 0xFFFFFFFF]
    words, lane = philox(counter, (numbers[0], numbers[1])), position & 3
    return torch.where(lane < 2, torch.where(lane == 0, words[0], words[1]), torch.where(lane == 2, words[2], words[3]))


def compiled_draw(draw: Draw, device: torch.device) -> Draw | None:
    """The draw as one kernel of this device; None where there is none, or it does not give what `noise` gives."""
    if device.type != "cuda" or torch.compiler.is_compiling() or importlib.util.find_spec("triton") is None:
        return None
    return _checked(draw, device)


@cache
def _checked(draw: Draw, device: torch.device) -> Draw | None:
    """The compiled draw, if it gives the right values."""
    kernel = torch.compile(draw, dynamic=True, fullgraph=True)

    def compiled(index: Tensor, numbers: Tensor, count: int) -> Tensor:
        # one state of torch for all callers, since each would be compiled for itself
        with torch.no_grad(), torch.autocast(index.device.type, enabled=False):
            return kernel(index, numbers, count)

    # sizes that differ from each other: what is compiled for them serves all others
    index = torch.tensor([0, 1, 17, 2**31, 2**33 + 5], device=device)
    numbers = torch.tensor([0x89ABCDEF, 0x9E3779B9, 1000], device=device)
    try:
        found, expected = compiled(index, numbers, 21), draw(index, numbers, 21)
    except RuntimeError as error:
        warnings.warn(f"random draws are not compiled: {str(error).splitlines()[0]}", stacklevel=2)
        return None
    # logarithm and cosine may round otherwise; the words may not
    close = torch.allclose(found, expected, rtol=1e-12, atol=0.0) if draw is normal else torch.equal(found, expected)
    if not close:
        warnings.warn("the compiled random draws differ from the plain ones, which are taken instead", stacklevel=2)
    return compiled if close else None
