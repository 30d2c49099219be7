"""Masks: the published rule on a slow twin, their complement, and the way back to image order."""

from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.mask import complement, keep_tokens, kept_tokens, random_mask, restore_tokens


def slow_mask(noise: list[float], kept: int) -> tuple[list[int], list[int]]:
    order = sorted(range(len(noise)), key=lambda token: noise[token])
    return order[:kept], [order.index(token) for token in range(len(noise))]


masks = st.tuples(st.integers(2, 20), st.integers(1, 3), st.floats(0.05, 0.9), st.integers(0, 2**31))


@settings(deadline=None, max_examples=30)
@given(masks)
def test_a_mask_follows_the_published_rule(case):
    tokens, batch, rate, seed = case
    noise = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed))
    kept = floor(round(tokens * (1 - rate), 6))
    if kept == 0:
        with pytest.raises(ValueError, match="keeps none"):
            random_mask(noise, rate)
        return
    mask = random_mask(noise, rate)
    for row in range(batch):
        ids_keep, ids_restore = slow_mask(noise[row].tolist(), kept)
        assert mask.ids_keep[row].tolist() == ids_keep
        assert mask.ids_restore[row].tolist() == ids_restore
        assert mask.mask[row].tolist() == [0.0 if token in ids_keep else 1.0 for token in range(tokens)]


@settings(deadline=None, max_examples=30)
@given(masks)
def test_the_complement_keeps_what_was_removed_and_is_its_own_inverse(case):
    tokens, batch, rate, seed = case
    noise = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed))
    kept = floor(round(tokens * (1 - rate), 6))
    if kept in (0, tokens):
        return
    mask = random_mask(noise, rate)
    other = complement(mask)
    assert torch.equal(other.mask, 1 - mask.mask)
    both = torch.cat([mask.ids_keep, other.ids_keep], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(tokens).expand(batch, -1))
    for again, first in zip(complement(other), mask, strict=True):
        assert torch.equal(again, first)


@settings(deadline=None, max_examples=20)
@given(masks)
def test_kept_tokens_come_back_to_their_places(case):
    tokens, batch, rate, seed = case
    generator = torch.Generator().manual_seed(seed)
    noise, x = torch.rand(batch, tokens, generator=generator), torch.rand(batch, tokens, 3, generator=generator)
    if floor(round(tokens * (1 - rate), 6)) == 0:
        return
    mask = random_mask(noise, rate)
    restored = restore_tokens(keep_tokens(x, mask), mask, torch.full((1, 1, 3), 7.0))
    torch.testing.assert_close(restored, torch.where(mask.mask[..., None] > 0, 7.0, x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("tokens", "rate", "kept"),
    [
        (10, 0.8, 2),
        (10, 0.9, 1),
        (50, 0.9, 5),
        (100, 0.7, 30),
        (10, 1 - 0.8, 8),
        (196, 0.75, 49),
        (256, 0.8, 51),
        (4, 0.7, 1),
    ],
)
def test_no_token_is_lost_to_floating_point(tokens, rate, kept):
    assert kept_tokens(tokens, rate) == random_mask(torch.rand(1, tokens), rate).ids_keep.shape[1] == kept


@given(
    st.sampled_from([16, 49, 64, 196, 256, 576, 1024]), st.sampled_from([0.0, 0.125, 0.25, 0.4, 0.5, 0.6, 0.75, 0.875])
)
def test_published_sizes_and_rates_keep_as_many_as_in_public_code(tokens, rate):
    assert kept_tokens(tokens, rate) == int(tokens * (1 - rate))


def test_rate_zero_keeps_every_token():
    mask = random_mask(torch.rand(2, 5, generator=torch.Generator().manual_seed(0)), 0.0)
    assert mask.mask.sum() == 0
    assert mask.ids_keep.shape == (2, 5)
    with pytest.raises(ValueError, match="removes no token"):
        complement(mask)


def test_bad_masks_are_refused():
    with pytest.raises(ValueError, match=r"must be \(batch, tokens\)"):
        random_mask(torch.rand(4), 0.5)
    with pytest.raises(ValueError, match="share of removed tokens"):
        random_mask(torch.rand(1, 4), 1.0)
    with pytest.raises(ValueError, match="one row of noise per image"):
        keep_tokens(torch.rand(3, 4, 2), random_mask(torch.rand(1, 4), 0.5))
