"""The counter-based generator: published answers, independence of layout, and the right distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import noise, noise_kernels
from rp_models.philox import philox


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
    words = philox([torch.tensor([c]) for c in counter], key)
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


DRAWS = {
    "uniform": lambda shape, **given: noise.uniform(shape, dtype=torch.float64, **given),
    "normal": lambda shape, **given: noise.normal(shape, dtype=torch.float64, **given),
    "integers": lambda shape, **given: noise.integers(1000, shape, **given),
}


def drawn_alone(draw, index, count, *, seed, kernel=None):
    """What a kernel's function gives, and what `noise` gives on the CPU."""
    key = noise.derive_seed(seed, "p")
    numbers = torch.tensor([key & 0xFFFFFFFF, key >> 32, 1000])
    found = (kernel or getattr(noise_kernels, draw))(index, numbers, count)
    return found, DRAWS[draw]((count,), seed=seed, purpose="p", index=index)


@settings(deadline=None, max_examples=30)
@given(
    draw=st.sampled_from(list(DRAWS)),
    index=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    count=st.integers(1, 23),
    seed=st.integers(-(2**63), 2**63),
)
def test_values_reckoned_one_by_one_are_those_of_four_at_once(draw, index, count, seed):
    found, expected = drawn_alone(draw, torch.tensor(index), count, seed=seed)
    tolerance = 1e-14 if draw == "normal" else 0.0  # vectors of log and cos may round otherwise than their rest
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("draw", list(DRAWS))
def test_a_draw_is_one_kernel_that_serves_every_seed_and_size(draw):
    """Compiled for the CPU here, through the same compiler."""
    from torch._dynamo.testing import CompileCounterWithBackend
    from torch._inductor import metrics

    torch._dynamo.reset()
    metrics.reset()
    compiler = CompileCounterWithBackend("inductor")
    kernel = torch.compile(getattr(noise_kernels, draw), dynamic=True, fullgraph=True, backend=compiler)
    for seed, rows, count in ((1, 5, 21), (2, 3, 8), (3, 7, 3072), (-4, 6, 6)):
        found, expected = drawn_alone(draw, torch.arange(rows) * 2**31 + 3, count, seed=seed, kernel=kernel)
        tolerance = 1e-13 if draw == "normal" else 0.0
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert compiler.frame_count == 1
    assert metrics.generated_kernel_count == 1


def test_draws_of_another_device_are_asked_of_a_kernel(monkeypatch):
    """What the CPU cannot show: that `noise` hands key, bound and number of values to the kernel as they should be."""
    index = torch.arange(3)
    for draw, asked in DRAWS.items():
        expected = asked((2, 5), seed=9, purpose="p", index=index)
        with monkeypatch.context() as patched:
            patched.setattr(noise, "_on_cpu", lambda index: False)
            patched.setattr(noise_kernels, "compiled_draw", lambda plain, device: plain)
            patched.setattr(noise, "_words", None)
            found = asked((2, 5), seed=9, purpose="p", index=index)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14, msg=draw)
