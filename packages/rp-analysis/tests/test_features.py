"""Streaming of features to disk: what is read, how it is pooled, and how an interrupted run continues."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rp_analysis import extract_features, open_features
from torch import Tensor, nn


class Net(nn.Module):
    """A convolution, tokens and a head; counts the images it has seen."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.block = nn.Sequential(nn.Flatten(2), nn.Dropout(0.5))
        self.head = nn.Linear(3, 2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator))
        self.unused = nn.Identity()
        self.images = 0

    def forward_features(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.block(self.conv(x)).mean(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


IMAGES = torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(100, 110)


def batches(size: int = 4, images: int = 10):
    return [(i, x) for i, x in zip(INDEX[:images].split(size), IMAGES[:images].split(size), strict=True)]


def test_pooled_features_and_indices_are_written(tmp_path: Path) -> None:
    net = Net()
    found = extract_features(net, batches(), tmp_path / "sub" / "f.npy", n=10)
    assert net.training
    expected = net.eval().forward_features(IMAGES)
    torch.testing.assert_close(torch.from_numpy(found.array[:]), expected.detach())
    assert found.image.tolist() == INDEX.tolist()
    assert found.about["layer"] is None
    np.testing.assert_array_equal(open_features(tmp_path / "sub" / "f.npy").array, found.array)


def test_any_named_layer_can_be_read_and_pooled(tmp_path: Path) -> None:
    net = Net()
    maps = net.conv(IMAGES).detach()
    mean = extract_features(net, batches(), tmp_path / "a.npy", n=10, layer="conv").array
    flat = extract_features(net, batches(), tmp_path / "b.npy", n=10, layer="conv", pool="flatten").array
    first = extract_features(net, batches(), tmp_path / "c.npy", n=10, layer="block.0", pool="first").array
    half = extract_features(net, batches(), tmp_path / "d.npy", n=10, layer="conv", dtype="float16").array
    torch.testing.assert_close(torch.from_numpy(mean[:]), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(torch.from_numpy(flat[:]), maps.flatten(1))
    torch.testing.assert_close(torch.from_numpy(first[:]), maps.flatten(2)[:, 0])
    assert half.dtype == np.float16
    assert not net.conv._forward_hooks


def test_an_interrupted_run_continues_where_it_stopped(tmp_path: Path) -> None:
    path, net = tmp_path / "f.npy", Net()
    with pytest.raises(ValueError, match="batches ended after 4 of 10 images"):
        extract_features(net, batches()[:1], path, n=10)
    with pytest.raises(ValueError, match="holds 4 of 10 images"):
        open_features(path)
    assert net.images == 4
    found = extract_features(net, batches(size=3), path, n=10)  # other batches, same images
    assert net.images == 10 + 4  # the first two, twice, to see that it is the same model
    whole = extract_features(net, batches(), tmp_path / "whole.npy", n=10)
    np.testing.assert_allclose(found.array, whole.array, rtol=1e-6)
    assert found.image.tolist() == INDEX.tolist()
    assert extract_features(net, batches(), path, n=10).about["done"] == 10
    assert net.images == 24 + 4  # complete: nothing but the first two was computed again


def test_an_exception_in_between_leaves_a_file_to_continue(tmp_path: Path) -> None:
    path, net = tmp_path / "f.npy", Net()

    def failing():
        yield from batches()[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(net, failing(), path, n=10, flush_every=1)
    extract_features(net, batches(), path, n=10)
    assert net.images == 10 + 4


class Scaled(nn.Module):
    """A network whose setting stands in no weight."""

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_is_never_handed_to_another_model(tmp_path: Path, dtype: str) -> None:
    path, net = tmp_path / "f.npy", Net()
    extract_features(Scaled(net, 1.0), batches(), path, n=10, dtype=dtype)
    extract_features(Scaled(net, 1.0), batches(), path, n=10, dtype=dtype)
    with pytest.raises(ValueError, match="was begun with another model"):
        extract_features(Scaled(net, 1.5), batches(), path, n=10, dtype=dtype)
    with pytest.raises(ValueError, match="was begun with another model"):
        extract_features(Scaled(net, 1.0), batches(), path, n=10, dtype=dtype, forward=lambda x: net(x) + 0.5)


def test_a_random_model_goes_on(tmp_path: Path) -> None:
    path, net = tmp_path / "f.npy", Net()

    def forward(x: Tensor) -> Tensor:
        return net(x) + torch.rand(len(x), 1)

    for _ in range(2):
        extract_features(net, batches(), path, n=10, forward=forward)


def test_a_forward_function_can_pass_more_than_images(tmp_path: Path) -> None:
    net = Net()
    found = extract_features(net, batches(), tmp_path / "f.npy", n=10, layer="conv", forward=lambda x: net(0.5 * x))
    torch.testing.assert_close(torch.from_numpy(found.array[:]), net.conv(0.5 * IMAGES).mean(dim=(2, 3)).detach())


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    net, path = Net(), tmp_path / "f.npy"
    with pytest.raises(ValueError, match=r"no layer 'conf'; it has conv, block, block\.0"):
        extract_features(net, batches(), path, n=10, layer="conf")
    with pytest.raises(ValueError, match="never reached layer 'unused'"):
        extract_features(net, batches(), path, n=10, layer="unused")
    with pytest.raises(ValueError, match="batches hold more than n = 5"):
        extract_features(net, batches(), path, n=5)
    extract_features(net, batches(), path, n=10, layer="head")
    with pytest.raises(ValueError, match="was begun with"):
        extract_features(net, batches(), path, n=10, layer="conv")
    with pytest.raises(ValueError, match="was begun with"):
        extract_features(Net(seed=1), batches(), path, n=10, layer="head")  # other weights
    shuffled = [(index.flip(0), x) for index, x in batches()]
    with pytest.raises(ValueError, match="other images or another order"):
        extract_features(net, shuffled, path, n=10, layer="head")
    with pytest.raises(ValueError, match="pool='first' takes tokens"):
        extract_features(net, batches(), tmp_path / "g.npy", n=10, layer="conv", pool="first")
