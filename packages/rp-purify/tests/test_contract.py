"""What every purifier promises, tried on all of them."""

import copy
import functools
import importlib
import pkgutil
from collections.abc import Callable

import pytest
import rp_purify
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import noise
from rp_purify import Defended, Purifier, SignDescent
from rp_purify.build import _PURIFIERS
from rp_purify.gradient import clip_to_image
from rp_purify.reverse import Place, ReverseDiffusion
from rp_purify.settings import KINDS
from torch import Tensor

from .every_purifier import FIXED, MAKE, OF_LENGTH, SIGNS, saved_bytes
from .models import TinyClassifier, tiny_images

EVERY = pytest.mark.parametrize("name", MAKE)
RANDOM = pytest.mark.parametrize("name", [name for name in MAKE if name not in FIXED])
INDEX = torch.tensor([7, 3, 2**33, 0])
made = functools.cache(lambda name: MAKE[name]())


def test_all_purifiers_that_there_are_are_tried() -> None:
    for module in pkgutil.iter_modules(rp_purify.__path__, "rp_purify."):
        importlib.import_module(module.name)
    found = [Purifier]
    for cls in found:
        found += cls.__subclasses__()
    public = {cls for cls in found if cls.__module__.startswith("rp_purify.") and not cls.__name__.startswith("_")}
    bases = {Purifier, SignDescent, ReverseDiffusion}  # which only others are made of
    assert public - {type(made(name)) for name in MAKE} == bases
    assert set(KINDS) - set(MAKE) == set()
    assert all(type(made(kind)) is cls for kind, cls in _PURIFIERS.items())


@EVERY
def test_one_image_equals_a_batch_and_the_result_is_a_batch_of_images(name: str) -> None:
    purifier, x = made(name), tiny_images(4)
    before = x.clone()
    together = purifier(x, seed=2, index=INDEX)
    alone = torch.cat([purifier(x[i : i + 1], seed=2, index=INDEX[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)  # matrix products of other sizes
    assert torch.equal(purifier(x, seed=2, index=INDEX), together)
    assert torch.equal(purifier(x, seed=3, index=INDEX), together) == (name in FIXED)
    assert (together.shape, together.dtype) == (x.shape, x.dtype)
    assert 0 <= together.min() <= together.max() <= 1
    assert torch.equal(x, before)


@given(
    name=st.sampled_from([name for name in MAKE if name not in SIGNS]),
    chosen=st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
    limits=st.sampled_from([(0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (-1.0, 2.0)]),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=60)
def test_any_of_the_images_in_any_order_are_purified_as_in_the_whole_batch(
    name: str, chosen: list[int], limits: tuple[float, float], seed: int
) -> None:
    x = tiny_images(5, low=limits[0], high=limits[1]).clamp(0, 1)  # black, white, and saturated ones among them
    index = torch.tensor([5, 2**40, 0, 17, 3])
    with torch.no_grad():
        whole = made(name)(x, seed=seed, index=index)
        part = made(name)(x[chosen], seed=seed, index=index[chosen])
    torch.testing.assert_close(part, whole[chosen], atol=1e-4, rtol=0)  # Adam and adaptive steps enlarge rounding
    assert 0 <= whole.min() <= whole.max() <= 1


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, Tensor]]:
    """The seed, purpose and indices of everything that is drawn."""
    record: list[tuple[int, str, Tensor]] = []
    words = noise._words

    def recorded(shape: object, seed: int, purpose: str, index: Tensor) -> Tensor:
        record.append((seed, purpose, index))
        return words(shape, seed, purpose, index)  # type: ignore[arg-type]

    monkeypatch.setattr(noise, "_words", recorded)
    return record


@EVERY
def test_everything_is_drawn_once_from_the_calls_seed_and_each_images_index(name: str, draws: list) -> None:
    state = torch.random.get_rng_state()
    made(name)(tiny_images(4), seed=11, index=INDEX)
    assert {seed for seed, _, _ in draws} <= {11}
    drawn: dict[str, list[Tensor]] = {}
    for _, purpose, index in draws:
        drawn.setdefault(purpose, []).append(index)  # some images after others, with `chunk`
    assert all(torch.equal(torch.cat(parts), INDEX) for parts in drawn.values())
    assert (len(drawn) == 0) == (name in FIXED)
    assert torch.equal(torch.random.get_rng_state(), state)


@RANDOM
def test_without_a_seed_nobody_can_foretell_the_noise_and_with_one_it_repeats(name: str) -> None:
    x = tiny_images(low=0.2, high=0.8)
    assert not torch.equal(MAKE[name]()(x), MAKE[name]()(x))
    first, second = (MAKE[name](seed=5) for _ in range(2))
    sequence = [first(x) for _ in range(2)]
    assert not torch.equal(*sequence)
    assert all(torch.equal(image, second(x)) for image in sequence)
    assert not torch.equal(MAKE[name](seed=6)(x), sequence[0])


@EVERY
def test_every_setting_is_a_plain_attribute_that_repr_shows(name: str) -> None:
    purifier = MAKE[name]() if name in FIXED else MAKE[name](seed=4)
    shown = repr(purifier)
    for setting in (f"grad={purifier.grad!r}", *([] if name in FIXED else ["seed=4", "fresh=True"])):
        assert setting in shown
    purifier(tiny_images(1), seed=0)
    assert repr(purifier) == repr(copy.deepcopy(purifier)) == shown
    assert name in FIXED or repr(MAKE[name](seed=5)) != shown
    for setting, value in vars(purifier).items():
        if not setting.startswith("_") and setting != "training":
            assert isinstance(value, (int, float, str, tuple, bool, type(None))), setting


@EVERY
def test_all_rules_give_the_same_images_and_no_parameter_a_gradient(name: str) -> None:
    purifier, x = MAKE[name](), tiny_images(2, low=0.3, high=0.7)
    trainable = [parameter.requires_grad for parameter in purifier.parameters()]
    with torch.no_grad():
        expected = purifier(x, seed=1)
    assert "identity" in purifier.gradients
    for rule in purifier.gradients:
        leaf = x.clone().requires_grad_()
        purified = purifier.with_gradient(rule)(leaf, seed=1)
        torch.testing.assert_close(purified, expected, atol=1e-6, rtol=0)
        purified.sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert rule != "identity" or torch.equal(leaf.grad, torch.ones_like(x))
        assert float(leaf.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in purifier.parameters())
    assert [parameter.requires_grad for parameter in purifier.parameters()] == trainable
    assert Defended(purifier, TinyClassifier())(x, seed=1).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name in MAKE if name not in SIGNS])
def test_the_exact_gradient_is_that_of_finite_differences(name: str) -> None:
    purifier = MAKE[name](grad="exact").double()
    x = tiny_images(1, low=0.4, high=0.6).double().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    upstream, direction = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2))
    call = purifier.with_noise(seed=1, index=torch.tensor([4]))
    (grad,) = torch.autograd.grad((call(x) * upstream).sum(), x)
    with torch.no_grad():
        difference = ((call(x + 1e-6 * direction) - call(x - 1e-6 * direction)) * upstream).sum() / 2e-6
    # central differences in float64; no pixel may cross a bound within 1e-6
    assert float((grad * direction).sum()) == pytest.approx(float(difference), abs=1e-6, rel=1e-5)


def unrolled(purifier: ReverseDiffusion, x: Tensor, draw: Callable[[str], Tensor]) -> Tensor:
    """The same steps in one stored graph."""
    images = state = 2 * x - 1
    for number, (signal, std, steps) in enumerate(purifier.rounds):
        state = signal * state + std * draw(f"noise of round {number}")
        for count, step in enumerate(steps):
            place = (number, count)
            unit = draw(f"step {count} of round {number}") if step.random else None
            state = step(
                purifier.model,
                state,
                unit,
                lambda seen, place=place: purifier.shift(seen, Place(*place), images, draw),
            )
    return clip_to_image((state + 1) / 2)


@pytest.mark.parametrize("name", [name for name in MAKE if isinstance(made(name), ReverseDiffusion)])
def test_the_exact_gradient_is_autograds_of_the_unrolled_loop(name: str) -> None:
    purifier, x = MAKE[name](grad="exact"), tiny_images(2, low=0.3, high=0.7).requires_grad_()

    def draw(purpose: str) -> Tensor:
        return noise.normal(x.shape[1:], seed=5, purpose=purpose, index=torch.arange(2))

    assert isinstance(purifier, ReverseDiffusion)
    ours, theirs = purifier(x, seed=5), unrolled(purifier, x, draw)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    grads = [torch.autograd.grad((image * upstream).sum(), x)[0] for image in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)  # recomputed in another order


@pytest.mark.parametrize("name", OF_LENGTH)
def test_a_step_keeps_its_images_and_nothing_of_the_network(name: str) -> None:
    make, images = OF_LENGTH[name]
    x = tiny_images(8).requires_grad_()
    short, long = (saved_bytes(make(steps), x) for steps in (2, 12))
    assert long - short <= 10 * (images + 1) * x.numel() * 4  # the step's input, and beside it a few masks and numbers
