"""Draws are a function of (seed, image, purpose, position) alone, and have the distributions they are named after."""

import math

import pytest
import torch
from rp_attacks import noise
from rp_attacks.norms import _laplace

LIKE, INDEX = torch.zeros(1), torch.tensor([3, 0, 2**31 + 7, 2**40])


def test_the_words_are_those_of_philox() -> None:
    # the generator's published known answer for a counter and a key of zeros
    words = noise._words(4, 0, torch.zeros(1, dtype=torch.int64))
    assert words.tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_a_draw_belongs_to_its_image_seed_and_purpose(draw) -> None:
    kind = {"seed": 5, "purpose": "start", "like": LIKE}
    together = draw((2, 3), index=INDEX, **kind)
    assert torch.equal(draw((2, 3), index=INDEX[2:3], **kind), together[2:3])
    assert torch.equal(draw((6,), index=INDEX, **kind), together.flatten(1))
    assert len({tuple(row.tolist()) for row in together.flatten(1)}) == len(INDEX)
    for change in ({"seed": 6}, {"purpose": "stop"}):
        assert not (draw((2, 3), index=INDEX, **{**kind, **change}) == together).any()
    assert draw((), index=INDEX, **kind).shape == (4,)
    assert draw((3,), index=INDEX, **{**kind, "like": LIKE.double()}).dtype == torch.float64


def test_uniform_and_normal_draws_have_their_quantiles() -> None:
    u, z = (
        draw((20_000,), seed=0, purpose="p", index=torch.arange(2), like=LIKE.double()).flatten().sort().values
        for draw in (noise.uniform, noise.normal)
    )
    assert u.min() >= 0
    assert u.max() < 1
    # Kolmogorov's distance of 40,000 draws exceeds 0.0081 by chance once in a hundred seeds; the seed is fixed
    grid = torch.arange(1, len(u) + 1) / len(u)
    assert (u - grid).abs().max() < 0.0081
    assert ((1 + torch.erf(z / math.sqrt(2))) / 2 - grid).abs().max() < 0.0081


def test_laplace_draws_have_the_quantiles_of_their_uniform_ones() -> None:
    u = torch.tensor([0.0, 0.1, 0.25, 0.75, 0.9, 1 - 2.0**-24])
    twin = torch.distributions.Laplace(0.0, 1.0).icdf(u.double() + 2.0**-25)
    torch.testing.assert_close(_laplace(u).double(), twin, rtol=1e-6, atol=1e-6)


def test_an_index_that_is_no_row_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="index must be a 1-D int64 tensor"):
        noise.uniform((2,), seed=0, purpose="p", index=INDEX.float(), like=LIKE)
