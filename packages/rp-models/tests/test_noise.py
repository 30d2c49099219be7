"""The counter-based generator: published answers, independence of layout, and the right distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import noise


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # the known-answer vectors published with the generator
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    words = noise.philox([torch.tensor([c]) for c in counter], key)
    assert [int(w) for w in words] == answer


@settings(deadline=None, max_examples=25)
@given(
    index=st.lists(st.integers(0, 2**40), min_size=2, max_size=6, unique=True),
    size=st.integers(1, 9),
    draw=st.sampled_from([noise.uniform, noise.normal]),
)
def test_an_images_draw_does_not_depend_on_its_batch(index, size, draw):
    whole = draw((size,), seed=3, purpose="mask", index=torch.tensor(index))
    for row, i in zip(whole, index, strict=True):
        alone = draw((size,), seed=3, purpose="mask", index=torch.tensor([i]))[0]
        assert torch.equal(row, alone)
    assert len({tuple(row.tolist()) for row in whole}) == len(index) or size == 1


def test_seed_purpose_and_index_each_change_the_draw():
    index = torch.arange(2)
    base = noise.uniform((8,), seed=1, purpose="a", index=index)
    assert not torch.equal(base, noise.uniform((8,), seed=2, purpose="a", index=index))
    assert not torch.equal(base, noise.uniform((8,), seed=1, purpose="b", index=index))
    assert not torch.equal(base, noise.uniform((8,), seed=1, purpose="a", index=index + 1))


def test_global_generators_are_neither_read_nor_moved():
    before = torch.random.get_rng_state()
    noise.normal((5,), seed=0, purpose="x", index=torch.arange(3))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_distributions_are_right():
    index = torch.arange(64)
    u = noise.uniform((1000,), seed=0, purpose="u", index=index)
    assert float(u.min()) >= 0.0
    assert float(u.max()) < 1.0
    # 64,000 draws: four standard errors of mean and variance
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / u.numel()) ** 0.5
    z = noise.normal((1001,), seed=0, purpose="z", index=index).double()
    assert abs(float(z.mean())) < 4 * z.numel() ** -0.5
    assert abs(float(z.var()) - 1.0) < 4 * (2 / z.numel()) ** 0.5
    assert abs(float((z**4).mean()) - 3.0) < 4 * (96 / z.numel()) ** 0.5
    counts = noise.integers(10, (1000,), seed=0, purpose="i", index=index).flatten().bincount(minlength=10)
    assert len(counts) == 10
    assert float(((counts - 6400.0) ** 2 / 6400.0).sum()) < 27.9  # chi-square with 9 degrees at p = 0.001


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 300), seed=st.integers(0, 2**70))
def test_a_permutation_holds_each_number_once(count, seed):
    order = noise.permutation(count, seed=seed, purpose="epoch")
    assert torch.equal(order.sort().values, torch.arange(count))


def test_bad_indices_are_refused():
    with pytest.raises(ValueError, match="1-D int64"):
        noise.uniform((2,), seed=0, purpose="x", index=torch.zeros(2))
    with pytest.raises(ValueError, match=r"1\.\.2\^31"):
        noise.integers(0, (2,), seed=0, purpose="x", index=torch.arange(2))


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_the_extreme_words_give_finite_normal_draws(monkeypatch, word):
    monkeypatch.setattr(noise, "_words", lambda shape, *rest: torch.full((1, *shape), word, dtype=torch.int64))
    drawn = noise.normal((6,), seed=0, purpose="x", index=torch.zeros(1, dtype=torch.int64), dtype=torch.float64)
    # sqrt(-2 log(2^-33)) = 6.76 is the largest draw there is, sqrt(-2 log(1 - 2^-33)) = 1.5e-5 the smallest radius
    radius = {0: 6.7639, 2**32 - 1: 1.5259e-5}[word]
    torch.testing.assert_close(drawn.abs().max(), torch.tensor(radius, dtype=torch.float64), rtol=1e-4, atol=0)


def test_a_draw_that_would_repeat_itself_is_refused():
    with pytest.raises(ValueError, match=r"limited to 17179869184 values, got shape \(17179869184,\)"):
        noise.uniform((2**34,), seed=0, purpose="x", index=torch.zeros(1, dtype=torch.int64))
