import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import noise
from rp_models.mask import complement, random_mask
from rp_purify import Defended, MAEPure, NoPurification, SignDescent
from rp_purify.gradient import CURVED, clip_to_image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .models import TinyClassifier, tiny_images, tiny_mae

INDEX = torch.tensor([5, 0, 2**33 + 1])


def slow_purify(
    x: Tensor, *, steps: int, step_size: float, eta: float | None, halve: bool, rule: str | None, seed: int, rate=0.25
) -> Tensor:
    """Algorithm 1 written out with one stored graph from the input to the result."""
    mae, start = tiny_mae().to(x.dtype), x
    for s in range(1, steps + 1):
        values = noise.uniform((16,), seed=seed, purpose=f"mask 0 of step {s}", index=INDEX, dtype=x.dtype)
        mask = random_mask(values, rate)
        patches = x.unfold(2, 2, 2).unfold(3, 2, 2).reshape(3, 16, 4)
        with sdpa_kernel(SDPBackend.MATH):
            error = ((mae(x, mask) - patches) ** 2).mean(-1)
            losses = [error[i][mask.mask[i] > 0].mean() for i in range(3)]
            (g,) = torch.autograd.grad(sum(losses), x, create_graph=True)
        direction = g.sign()
        if rule is not None:
            size = torch.stack([row.abs().mean() for row in g]).view(3, 1, 1, 1)
            smooth = torch.tanh(g / size.detach()) if rule == "ste-tanh" else g / size
            direction = direction.detach() + smooth - smooth.detach()
        x = x - (step_size / 2 if halve and s > steps / 2 else step_size) * direction
        if eta is not None:
            x = torch.where((x - start).abs() > eta, start + eta * (x - start).sign().detach(), x)
        x = clip_to_image(x)
    return x


@pytest.mark.parametrize("halve", [True, False])
@pytest.mark.parametrize("eta", [None, 0.015])
def test_values_are_those_of_algorithm_1_written_out(eta: float | None, halve: bool) -> None:
    x = tiny_images().double().requires_grad_()
    purifier = MAEPure(tiny_mae().double(), steps=5, eta=eta, halve=halve)
    expected = slow_purify(x, steps=5, step_size=1 / 255, eta=eta, halve=halve, rule=None, seed=3)
    # float64, one rounding of a clipped value apart
    torch.testing.assert_close(purifier(x, seed=3, index=INDEX), expected.detach(), atol=1e-12, rtol=0)


def test_the_exact_gradient_is_the_identity_bit_for_bit_where_no_pixel_saturates() -> None:
    x = tiny_images(low=0.2, high=0.8).requires_grad_()
    purifier, classifier = MAEPure(tiny_mae(), steps=6, eta=0.01), TinyClassifier()
    purified = purifier(x, seed=3, index=INDEX)
    (exact,) = torch.autograd.grad(classifier(purified).square().sum(), x)
    at_purified = purified.detach().requires_grad_()
    (bpda,) = torch.autograd.grad(classifier(at_purified).square().sum(), at_purified)
    assert torch.equal(exact, bpda)
    assert exact.abs().min() > 0


@pytest.mark.parametrize("rule", [None, *CURVED])
def test_gradients_are_those_of_one_stored_graph_to_second_order(rule: str | None) -> None:
    x = tiny_images().double()
    x[0, 0, :4] = 0.001  # pixels that [0, 1] stops
    x[1, 0, 4:] = 0.999
    x.requires_grad_()
    purifier = MAEPure(tiny_mae().double(), steps=4, step_size=0.02, eta=0.047, grad=rule or "exact")
    upstream = tiny_images().double().flip(0) - 0.5  # and no multiple of the step is eta, where two derivatives meet
    slow = slow_purify(x, steps=4, step_size=0.02, eta=0.047, halve=True, rule=rule, seed=3)
    (expected,) = torch.autograd.grad(slow, x, upstream)
    (grad,) = torch.autograd.grad(purifier(x, seed=3, index=INDEX), x, upstream)
    # the same float64 operations in another order; curvature makes the gradients differ from `upstream` by ~0.1
    torch.testing.assert_close(grad, expected, atol=1e-10, rtol=1e-9)
    assert (rule is None) or not torch.allclose(grad, upstream, atol=1e-3)
    assert (grad == 0).any() == (rule is None)


class Scripted(SignDescent):
    """Descends x, -x, -x: each pixel goes one step down and two up."""

    def loss(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        return (x if step == 1 else -x).sum(dim=(1, 2, 3))


def test_a_pixel_that_the_range_stopped_follows_the_input_again_once_the_ball_stops_it() -> None:
    # the first two are stopped at 0 and then go up to 0.016, which only the first one's ball forbids
    x = torch.tensor([0.001, 0.004, 0.5]).view(1, 1, 1, 3).double().requires_grad_()
    purifier = Scripted(torch.nn.Identity(), step_size=0.008, steps=3, eta=0.014, halve=False, fresh=True)
    purified = purifier(x, seed=0)
    (grad,) = torch.autograd.grad(purified.sum(), x)
    shift = 1e-4
    with torch.no_grad():
        slope = (purifier(x + shift, seed=0) - purifier(x - shift, seed=0)) / (2 * shift)
    assert grad.flatten().tolist() == [1.0, 0.0, 1.0]
    torch.testing.assert_close(slope, grad, atol=1e-9, rtol=0)


def test_every_backward_rule_has_the_same_forward_pass() -> None:
    x = tiny_images()
    purifier = MAEPure(tiny_mae(), steps=4)
    expected = purifier(x, seed=1)
    for name in purifier.gradients:
        assert torch.equal(purifier.with_gradient(name)(x.clone().requires_grad_(), seed=1), expected)


def test_the_graph_of_a_curved_rule_keeps_one_image_per_step_and_nothing_else() -> None:
    x = tiny_images().requires_grad_()
    purified = MAEPure(tiny_mae(), steps=5, grad="ste-tanh")(x, seed=0)
    node = purified.grad_fn
    assert node is not None
    _, *iterates = node.saved_tensors  # type: ignore[attr-defined]
    assert [image.shape for image in iterates] == [x.shape] * 5
    assert not any(image.requires_grad for image in iterates)
    assert [type(following).__name__ for following, _ in node.next_functions if following] == ["AccumulateGrad"]


@given(
    steps=st.integers(0, 5),
    eta=st.sampled_from([None, 0.0, 0.004, 0.05]),
    step_size=st.sampled_from([1 / 255, 0.03]),
    masks=st.sampled_from(["fresh", "fixed"]),
)
@settings(deadline=None, max_examples=12)
def test_images_stay_in_the_ball_and_in_the_unit_range(
    steps: int, eta: float | None, step_size: float, masks: str
) -> None:
    x = (tiny_images() * 2 - 0.5).clamp(0, 1)
    before = x.clone()
    purified = MAEPure(tiny_mae(), steps=steps, eta=eta, step_size=step_size, masks=masks)(x)
    assert torch.equal(x, before)
    assert purified.shape == x.shape
    assert purified.dtype == x.dtype
    assert purified.min() >= 0
    assert purified.max() <= 1
    limit = step_size * steps if eta is None else min(eta, step_size * steps)
    assert (purified - x).abs().max() <= limit + 1e-6  # rounding of float32
    if steps == 0 or eta == 0.0:
        assert torch.equal(purified, x)


def test_a_plain_call_draws_fresh_masks_and_fixed_masks_repeat() -> None:
    x = tiny_images()
    fresh, fixed = MAEPure(tiny_mae(), steps=2), MAEPure(tiny_mae(), steps=2, masks="fixed")
    assert not torch.equal(fresh(x), fresh(x))
    assert torch.equal(fixed(x), fixed(x))
    assert not torch.equal(fresh(x, seed=0), fresh(x, seed=1))


def test_a_copy_with_another_gradient_does_not_replay_the_noise_of_plain_calls() -> None:
    x, purifier = tiny_images(), MAEPure(tiny_mae(), steps=2)
    copy = purifier.with_gradient("identity")
    assert not torch.equal(copy(x), purifier(x))


def test_global_generators_are_neither_read_nor_changed() -> None:
    purifier, x, state = MAEPure(tiny_mae(), steps=2), tiny_images(), torch.random.get_rng_state()
    purifier(x)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_purifies_without_gradients_switched_on(context: type) -> None:
    x, purifier = tiny_images(), MAEPure(tiny_mae(), steps=2)
    expected = purifier(x, seed=0)
    with context():
        assert torch.equal(purifier(x.clone(), seed=0), expected)


def test_masks_per_step_and_complements_average_their_losses() -> None:
    x, mae = tiny_images(), tiny_mae()
    purifier = MAEPure(mae, masks_per_step=2, complementary=True)
    expected = torch.zeros(3)
    for number in range(2):
        values = noise.uniform((16,), seed=4, purpose=f"mask {number} of step 3", index=INDEX)
        mask = random_mask(values, 0.25)
        expected += (mae.loss(x, mask) + mae.loss(x, complement(mask))) / 4
    torch.testing.assert_close(purifier.loss(x, seed=4, index=INDEX, step=3), expected)


def test_the_first_derivative_works_with_the_fused_kernels_alone() -> None:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        MAEPure(tiny_mae(), steps=1)(tiny_images())


def test_descending_lowers_the_loss() -> None:
    x, purifier = tiny_images(), MAEPure(tiny_mae(), steps=10, masks="fixed")
    index = torch.arange(3)
    before = purifier.reconstruction_loss(x, seed=0, index=index)
    after = purifier.reconstruction_loss(purifier(x, seed=0, index=index), seed=0, index=index)
    assert (after < before).all()


def test_the_trajectory_ends_at_the_purified_image() -> None:
    x, purifier = tiny_images(), MAEPure(tiny_mae(), steps=3)
    images = list(purifier.trajectory(x, seed=1, index=torch.arange(3)))
    assert len(images) == 4
    assert torch.equal(images[0], x)
    assert torch.equal(images[-1], purifier(x, seed=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 1.0}, "divide by 255"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"steps": -1}, "steps must not be negative"),
        ({"eta": -0.1}, "eta must not be negative"),
        ({"masks": "new"}, "'fresh' in each step or 'fixed'"),
        ({"mask_rate": 0.0}, "hides none of 16 patches"),
        ({"mask_rate": 0.99}, "keeps none of 16 tokens"),
        ({"masks_per_step": 0}, "masks_per_step"),
        ({"grad": "tanh"}, "exact, identity, ste-tanh, normalised"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAEPure(tiny_mae(), **settings)


@pytest.mark.parametrize(
    ("x", "index", "message"),
    [
        (torch.zeros(1, 8, 8), None, "expected float images"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), None, "torch.uint8"),
        (torch.full((1, 1, 8, 8), 2.0), None, "from 2 to 2"),
        (torch.full((1, 1, 8, 8), float("nan")), None, "nan"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0]), "one int64 image index for each of 2"),
    ],
)
def test_bad_inputs_are_refused(x: Tensor, index: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAEPure(tiny_mae(), steps=1)(x, seed=0, index=index)


def test_defended_is_a_classifier_that_passes_everything_on() -> None:
    x, index = tiny_images(), torch.tensor([4, 1, 9])
    purifier, classifier = MAEPure(tiny_mae(), steps=3), TinyClassifier()
    defended = Defended(purifier, classifier).eval()
    purified = purifier(x, seed=6, index=index)
    assert torch.equal(defended.with_noise(seed=6, index=index)(x), classifier(purified))
    assert defended(x).shape == (3, 10)
    assert defended.forward_features(x).shape == (3, 6)
    assert defended.gradients == MAEPure.gradients
    other = defended.with_gradient("ste-tanh")
    assert other.purifier.grad == "ste-tanh"
    assert not other.training
    assert torch.equal(other.with_noise(seed=6, index=index)(x), classifier(purified))
    loss = defended.reconstruction_loss(x.requires_grad_(), seed=6, index=index)
    assert torch.equal(loss, purifier.reconstruction_loss(x, seed=6, index=index))
    assert torch.autograd.grad(loss.sum(), x)[0].abs().sum() > 0


def test_only_a_purifier_that_descends_a_loss_gives_the_defence_one() -> None:
    assert hasattr(Defended(MAEPure(tiny_mae()), TinyClassifier()), "reconstruction_loss")
    assert not hasattr(Defended(NoPurification(), TinyClassifier()), "reconstruction_loss")


def test_a_deep_copy_of_a_defence_is_a_defence_of_its_own() -> None:
    defended = Defended(MAEPure(tiny_mae(), steps=1), TinyClassifier())
    other = copy.deepcopy(defended)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    x, index = tiny_images(), torch.arange(3)
    losses = [d.reconstruction_loss(x, seed=0, index=index) for d in (defended, other)]
    assert not torch.allclose(*losses)
