"""Philox-4x32-10, a counter-based generator.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW_32_BITS = 0xFFFFFFFF


def philox(counter: list[Tensor], key: tuple[int | Tensor, int | Tensor]) -> list[Tensor]:
    """Four random 32-bit words for each counter (Philox-4x32 with 10 rounds).

    Returns four int64 tensors of that shape, values in [0, 2^32). `counter`: four int64 tensors of one shape, values in
    [0, 2^32). `key`: two integers in [0, 2^32), or tensors of them.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # the 64-bit products wrap around into the sign bit, which the masks below make harmless
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> 32 & _LOW_32_BITS) ^ c1 ^ k0,
            p1 & _LOW_32_BITS,
            (p0 >> 32 & _LOW_32_BITS) ^ c3 ^ k1,
            p0 & _LOW_32_BITS,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW_32_BITS, (k1 + _KEY_STEPS[1]) & _LOW_32_BITS
    return [c0, c1, c2, c3]
