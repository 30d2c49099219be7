"""Which spatial frequencies perturbations and input gradients live in."""

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

Transform = Literal["fft", "dct"]
Quantity = Literal["magnitude", "log1p", "power"]


def frequency_map(
    images: Tensor | Iterable[Tensor], *, transform: Transform = "fft", quantity: Quantity = "magnitude"
) -> Tensor:
    """Computes the mean spectrum of images over samples and channels; (h, w) float64 on the device of the images.

    Args:
        images: (n, c, h, w) perturbations or gradients, or an iterable of such batches.
        transform: "fft" unnormalised DFT, zero frequency moved to (h // 2, w // 2); "dct" orthonormal DCT-II, zero
            frequency at (0, 0).
        quantity: mean of |F|, of log(1 + |F|), or of |F|^2.
    """
    if transform not in get_args(Transform) or quantity not in get_args(Quantity):
        raise ValueError(
            f"transform must be one of {get_args(Transform)} and quantity one of {get_args(Quantity)}, "
            f"got {transform!r} and {quantity!r}"
        )
    total: Tensor | None = None
    count = 0
    for batch in (images,) if isinstance(images, Tensor) else images:
        _check_images(batch, total)
        magnitude = _magnitude(batch.detach().double(), transform)
        if quantity == "log1p":
            magnitude = magnitude.log1p()
        elif quantity == "power":
            magnitude = magnitude.square()
        part = magnitude.sum(dim=(0, 1))
        total = part if total is None else total + part
        count += batch.shape[0] * batch.shape[1]
    if total is None or count == 0:
        raise ValueError("there are no images to take a spectrum of")
    return total / count


def log_map(spectrum: Tensor) -> Tensor:
    """Computes log(M + 1e-12) of a mean spectrum: the log of the mean, not the mean of logs."""
    return (spectrum + 1e-12).log()


def difference_map(before: Tensor, after: Tensor, *, normalize: bool = False) -> Tensor:
    """Computes after - before of two spectra (h, w), so that positive means more in `after`.

    Args:
        before: spectrum of the first model's gradients or perturbations.
        after: spectrum of the second model's, on the same images.
        normalize: divide each map by its own sum first. Needed for gradients, whose overall size differs between
            models and would decide the sign everywhere; not for linf perturbations, whose energy is nearly equal.
    """
    if before.shape != after.shape:
        raise ValueError(f"the maps must have the same size, got {tuple(before.shape)} and {tuple(after.shape)}")
    return after / after.sum() - before / before.sum() if normalize else after - before


def radial_profile(spectrum: Tensor, *, transform: Transform = "fft") -> Tensor:
    """Computes the mean of a spectrum over bins of integer radius, floor(sqrt(fy^2 + fx^2)).

    Args:
        spectrum: (h, w) as `frequency_map` returns it.
        transform: the one that made it; a DCT index u counts as radius u.

    Returns:
        (r,) float64, entry i for radii in [i, i + 1); NaN where a bin holds no frequency.
    """
    fy, fx = _frequencies(spectrum, transform)
    radius = (fy.square() + fx.square()).sqrt().long().flatten()  # the root of a square number is exact
    total = torch.zeros(int(radius.max()) + 1, dtype=torch.float64, device=spectrum.device)
    count = total.index_add(0, radius, torch.ones_like(radius, dtype=torch.float64))
    return total.index_add(0, radius, spectrum.double().flatten()) / count


def low_frequency_share(power: Tensor, *, radius: float = 0.125, transform: Transform = "fft") -> float:
    """Computes the share of energy at normalised frequencies up to `radius`.

    Args:
        power: (h, w) from `frequency_map(..., quantity="power")`.
        radius: in cycles per pixel, sqrt((fy / h)^2 + (fx / w)^2); 0.5 is the Nyquist frequency of an axis.
        transform: the one that made the map; a DCT index u is u / (2 h) cycles per pixel.
    """
    fy, fx = _frequencies(power, transform)
    h, w = power.shape
    period = 2 if transform == "dct" else 1
    low = ((fy / (period * h)).square() + (fx / (period * w)).square()).sqrt() <= radius
    return float(power[low].sum() / power.sum())


def dct_matrix(n: int, *, device: torch.device | None = None) -> Tensor:
    """The orthonormal DCT-II as an (n, n) float64 matrix C, so that C x is the transform of x."""
    u = torch.arange(n, dtype=torch.float64, device=device).unsqueeze(1)
    i = torch.arange(n, dtype=torch.float64, device=device)
    c = torch.cos(math.pi * (2 * i + 1) * u / (2 * n)) * math.sqrt(2 / n)
    c[0] /= math.sqrt(2)
    return c


def _magnitude(x: Tensor, transform: Transform) -> Tensor:
    if transform == "fft":
        return torch.fft.fftshift(torch.fft.fft2(x).abs(), dim=(-2, -1))
    h, w = x.shape[-2:]
    return (dct_matrix(h, device=x.device) @ x @ dct_matrix(w, device=x.device).T).abs()


def _frequencies(spectrum: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
    """The integer frequency of every row (h, 1) and column (1, w) of a map."""
    if spectrum.ndim != 2:
        raise ValueError(f"a spectrum is a map (h, w), got shape {tuple(spectrum.shape)}")
    h, w = spectrum.shape
    fy = torch.arange(h, dtype=torch.float64, device=spectrum.device).unsqueeze(1)
    fx = torch.arange(w, dtype=torch.float64, device=spectrum.device).unsqueeze(0)
    return (fy, fx) if transform == "dct" else (fy - h // 2, fx - w // 2)


def _check_images(batch: Tensor, total: Tensor | None) -> None:
    if batch.ndim != 4:
        raise ValueError(f"images must be (n, c, h, w), got shape {tuple(batch.shape)}")
    if total is not None and total.shape != batch.shape[-2:]:
        raise ValueError(f"all batches must have one size, got {tuple(total.shape)} and {tuple(batch.shape[-2:])}")
    if not bool(torch.isfinite(batch).all()):
        raise ValueError("images hold NaN or infinite values")
