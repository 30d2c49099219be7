"""Feature matrices as every analysis takes them: (samples, features), finite, float32 or float64."""

import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Matrix = Tensor | npt.NDArray[np.floating]
"""What the public functions accept: a tensor or a numpy array (memory-mapped or not), (n, d)."""


def as_matrix(x: Matrix, name: str, *, rows: int = 1, keep_half: bool = False) -> Tensor:
    """Checks features and returns them as a tensor, without a copy where the type allows it.

    Args:
        x: (n, d) features, memory-mapped or not.
        keep_half: leave float16 and bfloat16 as they are, for callers that convert block by block; otherwise they
            become float32. Float32 and float64 stay.

    Returns:
        (n, d) tensor that shares memory with `x` where possible; it must not be written to.

    Raises:
        TypeError: `x` is neither a tensor nor an array, or not of a floating type.
        ValueError: `x` is not a matrix, has too few rows, or holds NaN or infinite values.
    """
    if isinstance(x, np.ndarray):
        x = _from_numpy(x)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor or a numpy array, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating-point features, got {x.dtype}; convert it with .float()")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name} must be a matrix (samples, features), got shape {tuple(x.shape)}; pool or flatten it first"
        )
    if len(x) < rows:
        raise ValueError(f"{name} must have at least {rows} rows (samples), got {len(x)}")
    if x.dtype not in (torch.float32, torch.float64) and not keep_half:
        x = x.float()
    if not all(bool(torch.isfinite(block).all()) for block in x.detach().split(row_block(x.shape[1]))):
        raise ValueError(f"{name} holds NaN or infinite values; drop those samples before the analysis")
    return x


def as_pair(a: Matrix, b: Matrix, names: tuple[str, str], *, rows: int = 1) -> tuple[Tensor, Tensor]:
    """Checks two feature matrices whose rows belong to the same samples in the same order.

    Returns:
        (n, d1) and (n, d2) tensors on the same device.
    """
    x, y = as_matrix(a, names[0], rows=rows), as_matrix(b, names[1], rows=rows)
    if len(x) != len(y):
        raise ValueError(
            f"{names[0]} and {names[1]} must describe the same samples in the same order, "
            f"got {len(x)} and {len(y)} rows"
        )
    if x.device != y.device:
        raise ValueError(f"{names[0]} and {names[1]} must be on one device, got {x.device} and {y.device}")
    return x, y


_GPU_ELEMENTS = 2**28  # numbers in a block on a GPU, where many small kernels cost more than a cache saves


def row_block(width: int, *, elements: int = 2**22, least: int = 1, like: Tensor | None = None) -> int:
    """How many rows of `width` numbers make a block of about `elements` numbers; more where `like` is on a GPU."""
    elements = _GPU_ELEMENTS if like is not None and like.is_cuda else elements
    return max(least, elements // max(width, 1))


def row_slices(n: int, rows: int) -> Iterator[slice]:
    """Consecutive slices of at most `rows` rows that cover `range(n)`."""
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def column_mean(x: Tensor) -> Tensor:
    """The mean of each feature, (d,), summed in float64."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for rows in x.split(row_block(x.shape[1], elements=2**20, like=x)):
        total += rows.sum(dim=0, dtype=torch.float64)
    return total / len(x)


def row_norms(x: Tensor) -> Tensor:
    """The Euclidean norm of each row, (n, 1), float64, with the floor 1e-12 that keeps zero rows zero."""
    blocks = x.split(row_block(x.shape[1], elements=2**20, like=x))  # each is converted to float64 for itself
    norms = [torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64) for rows in blocks]
    return torch.cat(norms).clamp_min(1e-12)


def _from_numpy(x: npt.NDArray[np.floating]) -> Tensor:
    with warnings.catch_warnings():
        # Read-only arrays are fine: no function of this package writes to its input.
        warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
        return torch.from_numpy(x)
