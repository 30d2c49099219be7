"""Counts on a real network: the ResNet-18 of the pyautoattack wheel on foolbox's 20 CIFAR-10 images."""

import importlib.util
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from rp_attacks import APGD, FAB, PGD, AutoAttack, LibrarySquare
from torch import Tensor

from .models import load_golden


def wheel_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return Path(spec.submodule_search_locations[0])


def read_png(path: Path) -> np.ndarray:
    """An 8-bit RGB image without interlacing; saves these tests a dependency."""
    data, place, compressed, width, height = path.read_bytes(), 8, b"", 0, 0
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, colour, interlaced) == (8, 2, 0)
        compressed += body if kind == b"IDAT" else b""
        place += length + 12
    lines = np.frombuffer(zlib.decompress(compressed), np.uint8).reshape(height, 1 + 3 * width)
    image = np.zeros((height + 1, width + 1, 3), np.int64)  # one pixel of zeros above and to the left
    for row, (method, *values) in enumerate(lines.tolist(), start=1):
        for column, pixel in enumerate(np.reshape(values, (width, 3)), start=1):
            left, up, corner = image[row, column - 1], image[row - 1, column], image[row - 1, column - 1]
            guess = left + up - corner
            distance = np.abs(np.stack([guess - left, guess - up, guess - corner]))
            paeth = np.choose(distance.argmin(0), [left, up, corner])
            predicted = (np.zeros(3, np.int64), left, up, (left + up) // 2, paeth)[method]
            image[row, column] = (pixel + predicted) % 256
    return image[1:, 1:].astype(np.uint8)


@pytest.fixture(scope="module")
def problem():
    folder = wheel_folder("pyautoattack") / "examples"
    spec = importlib.util.spec_from_file_location("wheel_resnet", folder / "resnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.ResNet18()
    model.load_state_dict(torch.load(folder / "model_test.pt", map_location="cpu", weights_only=True))
    files = sorted((wheel_folder("foolbox") / "data").glob("cifar10_*.png"))
    x = torch.from_numpy(np.stack([read_png(f) for f in files])).permute(0, 3, 1, 2).float() / 255
    y = torch.tensor([int(f.stem.rsplit("_", 1)[1]) for f in files])
    return model.eval(), x, y, load_golden("attacks_resnet18_foolbox20")


def predictions(model, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(x).argmax(1).numpy()


def test_clean_images_are_all_right(problem) -> None:
    model, x, y, golden = problem
    assert np.array_equal(y, golden["in_y"])
    assert np.array_equal(predictions(model, x), golden["out_pred_clean"])


@pytest.mark.parametrize(
    ("eps", "right"),
    [(1.0, 8), pytest.param(0.5, 16, marks=pytest.mark.slow), pytest.param(2.0, 3, marks=pytest.mark.slow)],
)
def test_pgd_leaves_the_recorded_images_standing(problem, eps: float, right: int) -> None:
    model, x, y, golden = problem
    # the first four images suffice for the quick case
    rows = slice(0, 4) if eps == 1.0 else slice(None)
    attack = PGD(eps=eps / 255, step_size=eps / 255 / 4, start="clean")
    expected = golden[f"out_pred_pgd10_linf_{eps}_over_255_step_eps_over_4_nostart"]
    assert (expected == y.numpy()).sum() == right
    assert np.array_equal(predictions(model, attack(model, x[rows], y[rows], seed=0)), expected[rows])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "right"),
    [
        (APGD(eps=0.5 / 255, steps=20), 16),
        (APGD(eps=0.5 / 255, steps=20, loss="dlr"), 16),
        (APGD(eps=0.1, norm="l2", steps=20), 12),
        (FAB(eps=1 / 255, targets=2, steps=8), 8),
        (LibrarySquare(eps=8 / 255, queries=60), 15),
        (AutoAttack(eps=8 / 255), 0),
    ],
)
def test_counts_of_the_literature_attacks(problem, attack, right: int) -> None:
    model, x, y, _ = problem
    standing = (predictions(model, attack(model, x, y, seed=0)) == y.numpy()).sum()
    # own APGD starts from other random points than the library's
    assert abs(standing - right) <= (1 if isinstance(attack, APGD) else 0)


@pytest.mark.slow
def test_autoattack_standard_gives_the_library_s_verdict_image_by_image(problem) -> None:
    """At a radius that leaves some images standing; half an hour on one core."""
    from pyautoattack import AutoAttack as Library

    model, x, y, _ = problem
    x, y = x[:8].contiguous(), y[:8]
    library = Library(model, eps=1 / 255, norm="Linf", version="standard", seed=0, device="cpu")
    expected, _ = library.run_standard_evaluation(x, y, batch_size=8)
    verdict = predictions(model, expected) == y.numpy()
    assert 0 < verdict.sum() < 8
    images = AutoAttack(eps=1 / 255)(model, x, y, seed=0)
    assert np.array_equal(predictions(model, images) == y.numpy(), verdict)
    np.testing.assert_allclose(images, expected, atol=1e-6)  # the last projection rounds
