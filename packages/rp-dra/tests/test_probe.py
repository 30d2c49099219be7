"""The linear probe on diffusion features."""

import torch
from rp_dra import EdmTarget, fit_probe
from rp_models import build
from rp_models.data import load_images, subset


def probe():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        edm = build("edm-digits")
    return fit_probe(EdmTarget(edm), subset(load_images("digits", "train"), 300), seed=0)


def test_a_probe_on_random_features_beats_chance_and_is_deterministic():
    fitted = probe()
    x, y = subset(load_images("digits", "validation"), 100).batch(slice(None))
    logits = fitted(x)
    assert float((logits.argmax(dim=1) == y).float().mean()) > 0.4  # chance is 0.1
    assert torch.equal(logits, fitted(x))
    torch.testing.assert_close(fitted(x[:1]), logits[:1], atol=1e-4, rtol=1e-4)  # no image depends on its batch


def test_the_fit_is_a_stationary_point_of_the_penalised_loss():
    fitted = probe()
    x, y = subset(load_images("digits", "train"), 300).batch(slice(None))
    features = fitted.forward_features(x).detach()
    loss = torch.nn.functional.cross_entropy(fitted.head(features), y)
    loss = loss + 1e-3 * fitted.head.weight.square().sum() / 2
    gradient = torch.autograd.grad(loss, fitted.head.weight)[0]
    assert float(gradient.abs().max()) < 1e-4  # the solver stops at 1e-7 in float64; float32 features round to 1e-5


def test_the_gradient_reaches_the_image_through_the_diffusion_model():
    fitted = probe()
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(fitted(x)[:, 0].sum(), x)
    step = 1e-3
    direction = gradient / gradient.norm()
    with torch.no_grad():
        change = (fitted(x + step * direction)[:, 0] - fitted(x - step * direction)[:, 0]).sum() / (2 * step)
    torch.testing.assert_close(change, gradient.norm(), rtol=2e-2, atol=1e-3)  # central difference in float32
