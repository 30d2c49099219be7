"""Layers that mask the gradient are named, and honest ones are not."""

import pytest
import torch
from rp_attacks.suspects import suspects, through_suspects
from rp_testing.planted import Rolled, Rounded, trained_network
from torch import Tensor, nn

from .models import NoisyModel, SwishWrn, filled, images, linear, tiny_conv


def wide() -> nn.Module:
    return filled(SwishWrn(), gain=1.4)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (tiny_conv, (3, 8, 8)),
        (wide, (3, 8, 8)),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(1)).eval(),
            (3, 8, 8),
        ),
        (lambda: NoisyModel(tiny_conv(), 0.1), (3, 8, 8)),
        (lambda: lambda z: linear((3, 8, 8), 4)(z).softmax(1), (3, 8, 8)),
    ],
)
def test_honest_networks_have_no_suspects(model, shape: tuple[int, ...]) -> None:
    assert suspects(model(), images(9, shape)) == []
    assert through_suspects(model(), images(2, shape)) == (None, [])


@pytest.mark.parametrize("seed", [149, 266, 360])
def test_kinks_on_the_way_between_two_images_are_no_suspects(seed: int) -> None:
    """Of these weights a sum over 16 points leaves 13 to 16% of the change of a pooling or a clipping unexplained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(1)).eval()
    assert suspects(network, images(2, (3, 8, 8))) == []


@pytest.mark.parametrize("count", [1, 9])
def test_rounding_and_a_wrong_gradient_are_named_where_they_are(count: int) -> None:
    x, network = images(count, (1, 8, 8)), nn.Sequential(nn.Conv2d(1, 3, 3), nn.SiLU(), linear((3, 6, 6), 4)).eval()
    for layer, text in ((Rounded(), "exactly zero"), (Rolled(), "is wrong")):
        model = nn.Sequential(nn.Sequential(nn.Identity(), layer), network).eval()
        (found,) = suspects(model, x)
        assert found.name == "0.1"
        assert text in found.text
        wrapped, same = through_suspects(model, x)
        assert same == [found]
        assert gradient(wrapped.with_gradient("bpda"), x).ne(0).any()
    (found,) = suspects(lambda z: network((16 * z).round() / 16), x)
    assert found.name == "torch.round"


def test_every_threshold_of_meansparse_is_named_and_nothing_else() -> None:
    model = trained_network(threshold=0.3)
    names = {suspect.name for suspect in suspects(model, images(8, (1, 8, 8)))}
    assert names == {f"n.{place}" for place in (2, 6, 10, 14, 18, 22, 26)}


def test_a_model_that_cannot_be_differentiated_is_suspect_as_a_whole() -> None:
    network, x = tiny_conv(), images(4, (3, 8, 8))
    wrapped, (found,) = through_suspects(lambda z: network(z.detach()), x)
    assert wrapped is None
    assert found.name == ""
    assert "there is none" in found.text


def test_a_layer_that_changes_the_shape_is_named_and_left_alone() -> None:
    class Halved(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (4 * z[..., ::2, ::2]).floor() / 4

    model = nn.Sequential(Halved(), nn.Flatten(), nn.Linear(16, 3)).eval()
    wrapped, (found,) = through_suspects(model, images(4, (1, 8, 8)))
    assert wrapped is None
    assert found.name == "0"


def test_a_straight_through_estimator_is_no_suspect() -> None:
    network = tiny_conv()
    assert suspects(lambda z: network(z + ((64 * z).round() / 64 - z).detach()), images(8, (3, 8, 8))) == []


def test_nothing_is_changed_by_looking() -> None:
    model, state = nn.Sequential(Rounded(), linear((1, 8, 8), 4)).eval(), torch.get_rng_state()
    suspects(model, images(4, (1, 8, 8)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())


def gradient(model, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(leaf).sum(), leaf)
    return grad
