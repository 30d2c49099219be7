"""Spectra against golden files, the transforms' definitions and known signals."""

import json
import math

import numpy as np
import pytest
import torch
from rp_analysis import frequency_map, low_frequency_share, radial_profile
from rp_analysis.frequency import dct_matrix, difference_map, log_map
from rp_testing import GOLDEN_FILES

GOLDEN = np.load(GOLDEN_FILES / "analysis_frequency.npz")
CASES = [case["name"] for case in json.loads(str(GOLDEN["config"]))["cases"]]


def check(found: torch.Tensor, key: str, rel: float = 1e-9) -> None:
    torch.testing.assert_close(found, torch.from_numpy(GOLDEN[key]), rtol=rel, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_golden_file(name: str) -> None:
    maps = {}
    for side in "ab":
        delta = torch.from_numpy(GOLDEN[f"in_delta_{side}_{name}"])
        fft, dct = frequency_map(delta), frequency_map(delta, transform="dct")
        maps[side] = fft, dct
        check(fft, f"out_fft_mag_{side}_{name}")
        check(log_map(fft), f"out_fft_log_mag_{side}_{name}")
        check(dct, f"out_dct_mag_{side}_{name}", rel=1e-8)  # entries near zero, relative to themselves
        check(frequency_map(delta, quantity="log1p"), f"out_fft_log1p_mag_{side}_{name}")
        power = frequency_map(delta, quantity="power")
        check(power, f"out_fft_power_{side}_{name}")
        check(radial_profile(fft), f"out_radial_mag_{side}_{name}")
        share = float(GOLDEN[f"out_low_energy_fraction_{side}_{name}"])
        assert low_frequency_share(power) == pytest.approx(share, rel=1e-9)
    check(difference_map(maps["a"][0], maps["b"][0]), f"out_diff_fft_mag_{name}", rel=1e-7)  # a difference
    check(difference_map(log_map(maps["a"][0]), log_map(maps["b"][0])), f"out_diff_fft_log_mag_{name}", rel=1e-7)
    check(difference_map(maps["a"][1], maps["b"][1]), f"out_diff_dct_mag_{name}", rel=1e-7)


@pytest.mark.parametrize("n", [1, 5, 8])
def test_the_dct_is_orthonormal_and_follows_its_definition(n: int) -> None:
    c = dct_matrix(n)
    torch.testing.assert_close(c @ c.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-14)
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    for u in range(n):
        scale = math.sqrt((1 if u == 0 else 2) / n)
        expected = scale * sum(float(x[i]) * math.cos(math.pi * (2 * i + 1) * u / (2 * n)) for i in range(n))
        assert float((c @ x)[u]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [8, 9])
def test_a_constant_image_is_all_zero_frequency(size: int) -> None:
    x = torch.ones(2, 3, size, size)
    fft, dct = frequency_map(x), frequency_map(x, transform="dct")
    assert fft[size // 2, size // 2] == pytest.approx(size * size)
    assert dct[0, 0] == pytest.approx(size)
    assert float(fft.sum()) == pytest.approx(size * size)
    assert radial_profile(fft)[1:].abs().max() < 1e-9
    for transform in ("fft", "dct"):
        power = frequency_map(x, transform=transform, quantity="power")
        assert low_frequency_share(power, transform=transform) == pytest.approx(1)


def test_a_wave_stands_at_its_frequency_and_a_chessboard_at_the_highest() -> None:
    i = torch.arange(16)
    wave = torch.cos(2 * torch.pi * 3 * i / 16).expand(1, 1, 16, 16)
    fft = frequency_map(wave)
    assert {tuple(place) for place in (fft > 1e-3).nonzero().tolist()} == {(8, 5), (8, 11)}
    board = ((-1.0) ** (i.view(16, 1) + i)).expand(1, 1, 16, 16)
    assert radial_profile(frequency_map(board)).argmax() == 11
    assert low_frequency_share(frequency_map(board, quantity="power"), radius=0.5) == pytest.approx(0, abs=1e-12)


def test_energy_is_kept_by_both_transforms() -> None:
    x = torch.randn(3, 2, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energy = float(x.square().sum() / 6)
    assert float(frequency_map(x, transform="dct", quantity="power").sum()) == pytest.approx(energy)
    assert float(frequency_map(x, quantity="power").sum()) == pytest.approx(60 * energy)


def test_batches_give_the_map_of_the_whole() -> None:
    x = torch.randn(7, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frequency_map(iter(x.split(3))), frequency_map(x), rtol=1e-12, atol=0)


def test_the_normalised_difference_ignores_the_size_of_gradients() -> None:
    x = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert difference_map(x, 100 * x, normalize=True).abs().max() < 1e-15
    assert difference_map(x, 100 * x).min() > 0


def test_bad_input_is_refused() -> None:
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="images must be"):
        frequency_map(x[0])
    with pytest.raises(ValueError, match="there are no images"):
        frequency_map([])
    with pytest.raises(ValueError, match="all batches must have one size"):
        frequency_map([x, x[..., :3]])
    with pytest.raises(ValueError, match="NaN or infinite"):
        frequency_map(x / 0)
    with pytest.raises(ValueError, match="transform must be one of"):
        frequency_map(x, transform="wavelet")
    with pytest.raises(ValueError, match="maps must have the same size"):
        difference_map(x[0, 0], x[0, 0, :3])
    with pytest.raises(ValueError, match="a spectrum is a map"):
        radial_profile(x)
