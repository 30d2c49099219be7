"""Alignment targets on EDM networks and on any module: the reference's features, frozen, with draws made outside."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_dra.targets import EdmTarget, JoinedTarget, ModuleTarget, represent
from rp_models import build, noise
from rp_testing import GOLDEN_FILES, fill_state
from torch import nn


def golden_edm(name):
    """A tiny EDM network with the recorded weights, and what the reference computed with it."""
    with np.load(GOLDEN_FILES / f"{name}.npz") as file:
        arrays, config = dict(file), json.loads(str(file["config"]))
    model = build("edm", **config["build"]["kwargs"])
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in fill_state(shapes).items()}
    model.load_state_dict(state)
    return model, {key: torch.from_numpy(value) for key, value in arrays.items() if key.startswith(("in_", "out_"))}


def filled_edm(**changes):
    """A tiny EDM network for 8x8 images whose every branch is open; a fresh one hardly looks at its input."""
    arguments = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_type": "SongUNet"}
    sizes = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    model = build("edm", **{**arguments, **sizes, **changes})
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in fill_state(shapes).items()})
    return model


def batch(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=generator)
    return x, torch.arange(count) % 10, torch.randn(count, 1, 8, 8, generator=generator)


@pytest.mark.parametrize("name", ["edm_ddpmpp_tiny", "edm_adm_tiny"])
@pytest.mark.parametrize("layer", ["enc_last", "mid_in0", "bottleneck", "before_up"])
def test_features_are_the_references_activations_averaged_over_space(name, layer):
    model, golden = golden_edm(name)
    x, sigma = golden["in_x"], golden["in_sigma"]
    grey = torch.full_like(x, 0.5)  # 0 in [-1, 1]: the noise alone makes up the recorded input
    expected = golden[f"out_{layer}"].mean(dim=(2, 3))
    for row in range(len(x)):
        target = EdmTarget(model, sigma=float(sigma[row]), layer=layer)
        got = target(grey[[row]], golden["in_class_labels"][[row]], noise=x[[row]] / sigma[row])
        torch.testing.assert_close(got, expected[[row]], atol=1e-5, rtol=1e-5)  # float32 sums in another order
    # the same two noise levels as draws of the training's distribution, in one call
    level = (sigma.log() + 1.2) / 1.2
    eps = x / sigma[:, None, None, None]
    got = EdmTarget(model, layer=layer)(grey, golden["in_class_labels"], noise=eps, level=level)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_target_is_frozen_and_gives_no_graph_to_image_or_network():
    target = EdmTarget(filled_edm()).train()
    assert not target.training
    assert not target.denoiser.training
    assert not any(parameter.requires_grad for parameter in target.parameters())
    x, y, eps = batch()
    assert not target(x.requires_grad_(), y, noise=eps).requires_grad
    (gradient,) = torch.autograd.grad(target.differentiable(x, y, noise=eps).square().sum(), x)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_the_label_is_the_condition_unless_it_is_null():
    model = filled_edm()
    x, y, eps = batch()
    told = EdmTarget(model)(x, y, noise=eps)
    null = EdmTarget(model)(x, None, noise=eps)
    assert not torch.allclose(told, null)
    assert torch.equal(EdmTarget(model, label="null")(x, y, noise=eps), null)


def test_bf16_runs_the_network_in_bf16_and_nothing_else():
    model = filled_edm()
    x, y, eps = batch()
    seen = []
    model.model.dec["4x4_in1"].register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    exact, rounded = EdmTarget(model)(x, y, noise=eps), EdmTarget(model, precision="bf16")(x, y, noise=eps)
    with torch.autocast("cpu", torch.bfloat16):  # a float32 target inside a bf16 training stays in float32
        inside = EdmTarget(model)(x, y, noise=eps)
    assert seen == [torch.float32, torch.bfloat16, torch.float32]
    assert rounded.dtype == inside.dtype == torch.float32
    assert torch.equal(exact, inside)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)  # bf16 has 8 bits, over a dozen layers


def test_a_training_step_gets_the_target_level_and_a_random_one_each_with_its_own_noise():
    model = filled_edm()
    x, y, _ = batch()
    draw = torch.arange(40, 44)
    target = EdmTarget(model, random_level=True)
    both = represent(target, x, y, seed=3, draw=draw)
    assert both.shape == (4, 2, target.width(1, 8))
    eps = noise.normal((1, 8, 8), seed=3, purpose="target noise", index=draw)
    assert torch.equal(both[:, 0], target(x, y, noise=eps))
    assert torch.equal(both[:, :1], represent(EdmTarget(model), x, y, seed=3, draw=draw))
    # slow twin of the second: one image at a time, its level from the log-normal distribution of EDM's training
    other = noise.normal((1, 8, 8), seed=3, purpose="target noise at a random level", index=draw)
    level = noise.normal((), seed=3, purpose="target level", index=draw)
    assert not torch.equal(eps, other)
    for row in range(4):
        sigma = float((-1.2 + 1.2 * level[row]).exp())
        one = EdmTarget(model, sigma=sigma)(x[[row]], y[[row]], noise=other[[row]])
        torch.testing.assert_close(both[[row], 1], one, atol=1e-5, rtol=1e-5)  # batches of 1 and 4 round differently


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(4)))
def test_draws_belong_to_their_number_whatever_the_batch(order):
    x, y, _ = batch()
    target = EdmTarget(filled_edm(), random_level=True)
    draw = torch.arange(7, 11)
    whole = represent(target, x, y, seed=0, draw=draw)
    shuffled = represent(target, x[order], y[order], seed=0, draw=draw[list(order)])
    torch.testing.assert_close(shuffled, whole[list(order)], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "pooled"),
    [
        (nn.Conv2d(1, 6, 3), lambda out: out.mean(dim=(2, 3))),
        (nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(2)), lambda out: out.mean(dim=1)),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), lambda out: out),
    ],
)
def test_any_module_is_a_target_averaged_over_positions(network, pooled):
    x, y, eps = batch()
    with torch.no_grad():
        expected, noisy = pooled(network(x)), pooled(network(x + 0.3 * eps))
    torch.testing.assert_close(ModuleTarget(network)(x, y, noise=eps), expected)
    torch.testing.assert_close(ModuleTarget(network, sigma=0.3)(x, y, noise=eps), noisy)
    assert ModuleTarget(network).width(1, 8) == expected.shape[1]


def test_joined_targets_give_their_features_side_by_side_each_with_its_own_noise():
    model = filled_edm()
    parts = [EdmTarget(model, sigma=0.1), EdmTarget(model, sigma=0.7, layer="enc_last")]
    joined = JoinedTarget(parts)
    x, y, _ = batch()
    assert joined.noise_shape((1, 8, 8)) == (2, 8, 8)
    eps = torch.randn(4, 2, 8, 8)
    expected = torch.cat([parts[0](x, y, noise=eps[:, :1]), parts[1](x, y, noise=eps[:, 1:])], dim=1)
    assert torch.equal(joined(x, y, noise=eps), expected)
    assert joined.width(1, 8) == expected.shape[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y, eps: EdmTarget(filled_edm(), sigma=0), "sigma must be positive"),
        (lambda x, y, eps: EdmTarget(filled_edm(), label="true"), "'class' or 'null'"),
        (lambda x, y, eps: EdmTarget(filled_edm(), precision="fp16"), "one of fp32, tf32, bf16"),
        (lambda x, y, eps: EdmTarget(filled_edm())(x, y, noise=eps[:2]), r"noise must have shape \(4, 1, 8, 8\)"),
        (lambda x, y, eps: EdmTarget(filled_edm())(x, y, noise=eps, level=torch.zeros(3)), "each of the 4 images"),
        (lambda x, y, eps: EdmTarget(filled_edm(label_dim=0))(x, y, noise=eps), "label='null'"),
        (lambda x, y, eps: ModuleTarget(nn.Flatten(0))(x, y, noise=eps), "wrap it in a module"),
        (lambda x, y, eps: ModuleTarget(nn.Flatten())(x, y, noise=eps, level=torch.zeros(4)), "no noise levels"),
        (lambda x, y, eps: ModuleTarget(nn.Flatten(), sigma=-1), "sigma must not be negative"),
        (lambda x, y, eps: JoinedTarget([]), "at least one"),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call(*batch())
