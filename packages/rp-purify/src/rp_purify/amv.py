"""Attention matrix variation (AMV): how far an attack moves a masked model's attention, and a purifier moves it back.

Axes: b images, t layers, h heads, n tokens. A view fixes everything random (masks, noise) per image, so that clean,
adversarial and purified images are compared under the same mask.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", sections 3.1 and 3.3. The paper writes
||A_adv - A||_2 and leaves open which norm, how heads are joined, and which layer; all conventions are options here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rp_purify.descent import SignDescent
from rp_purify.purifier import image_indices
from rp_purify.views import View

Norm = Literal["frobenius", "spectral"]
Heads = Literal["each", "mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """How two attention matrices are compared.

    Attributes:
        heads: "each": the norm of each head's difference, averaged; "mean": the norm of the heads' mean difference.
        drop_cls: leave out the class token's row and column (MAE; MaskDiT has none), without renormalising rows.
    """

    norm: Norm = "frobenius"  # of the difference
    heads: Heads = "each"
    drop_cls: bool = False
    squared: bool = False  # square each norm before averaging, as in Theorem 3.2

    def __post_init__(self) -> None:
        if self.norm not in ("frobenius", "spectral"):
            raise ValueError(f"norm must be 'frobenius' or 'spectral', got {self.norm!r}")
        if self.heads not in ("each", "mean"):
            raise ValueError(f"heads must be 'each' or 'mean', got {self.heads!r}")


DEFAULT = Convention()


def attention_variation(attention: Tensor, other: Tensor, convention: Convention = DEFAULT) -> Tensor:
    """||A' - A|| of each image, for one layer.

    Args:
        attention: weights (b, h, n, n), rows summing to 1.
        other: weights of the same shape, e.g. those of the attacked images.

    Returns:
        Tensor (b,), at most sqrt(2 n) (2 n if squared), and 0 for equal weights.
    """
    if attention.dim() != 4 or attention.shape != other.shape:
        raise ValueError(
            f"expected two attention tensors (batch, heads, n, n) of one shape, got {tuple(attention.shape)} and "
            f"{tuple(other.shape)}; use the same mask for both"
        )
    difference = other - attention
    if convention.drop_cls:
        difference = difference[:, :, 1:, 1:]
    if convention.heads == "mean":
        difference = difference.mean(dim=1, keepdim=True)
    norms = torch.linalg.matrix_norm(difference, ord="fro" if convention.norm == "frobenius" else 2)
    return (norms.square() if convention.squared else norms).mean(dim=1)


class Variation(NamedTuple):
    """AMV and loss of images against clean ones."""

    layers: Tensor  # AMV (b, t) of each decoder layer; the last column is the paper's figure
    clean_loss: Tensor
    loss: Tensor  # (b,), of the other images


def variation(
    view: View,
    clean: Tensor,
    other: Tensor,
    *,
    index: Tensor,
    convention: Convention = DEFAULT,
    batch_size: int = 64,
) -> Variation:
    """AMV between clean and other images under the same masks, in batches that keep only numbers.

    Args:
        index: int64 (b,), image indices: they choose the masks.
    """
    if clean.shape != other.shape:
        raise ValueError(f"expected two batches of one shape, got {tuple(clean.shape)} and {tuple(other.shape)}")
    index, parts = image_indices(clean, index), []
    for rows in torch.arange(len(clean), device=clean.device).split(batch_size):
        before, after = view(clean[rows], index[rows]), view(other[rows], index[rows])
        pairs = zip(before.attention, after.attention, strict=True)
        layers = torch.stack([attention_variation(a, b, convention) for a, b in pairs], dim=1)
        parts.append(Variation(layers, before.loss, after.loss))
    return Variation(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class Point(NamedTuple):
    """One point of a curve: means over images."""

    position: float  # the radius or the number of steps
    amv: float  # of the last decoder layer
    layers: list[float]  # of each decoder layer
    loss: float  # of the attacked or purified images
    clean_loss: float  # of the clean images
    amv_error: float  # standard error of `amv`, over images
    loss_error: float  # standard error of `loss`


def curve_over_radii(
    view: View,
    clean: Tensor,
    perturb: Callable[[float], Tensor],
    radii: Sequence[float],
    *,
    index: Tensor,
    convention: Convention = DEFAULT,
) -> list[Point]:
    """AMV and loss against the radius of an attack (the paper's Fig. 4 a-c and 7).

    Args:
        perturb: gives the attacked images for a radius in pixel units of [0, 1].
    """
    return _curve(view, clean, ((eps, perturb(eps)) for eps in radii), index, convention)


def curve_over_steps(
    view: View,
    clean: Tensor,
    attacked: Tensor,
    purifier: SignDescent,
    *,
    seed: int,
    index: Tensor,
    every: int = 1,
    convention: Convention = DEFAULT,
) -> list[Point]:
    """AMV and loss over the steps of a purifier (the paper's Fig. 4 d-f and 6).

    Args:
        view: the model that looks; its masks are not those that the purifier descends on.
        every: steps between two points; the first and the last step are always there.
    """
    images = enumerate(purifier.trajectory(attacked, seed=seed, index=index))
    chosen = ((float(step), image) for step, image in images if step % every == 0 or step == purifier.steps)
    return _curve(view, clean, chosen, index, convention)


def _curve(
    view: View, clean: Tensor, positions: Iterable[tuple[float, Tensor]], index: Tensor, convention: Convention
) -> list[Point]:
    """A point for each (position, images)."""
    points = []
    for position, images in positions:
        result = variation(view, clean, images, index=index, convention=convention)
        layers, amv = result.layers.double().mean(dim=0).tolist(), result.layers[:, -1]
        points.append(
            Point(
                position=position,
                amv=layers[-1],
                layers=layers,
                loss=float(result.loss.double().mean()),
                clean_loss=float(result.clean_loss.double().mean()),
                amv_error=_standard_error(amv),
                loss_error=_standard_error(result.loss),
            )
        )
    return points


def _standard_error(values: Tensor) -> float:
    """Of the mean of values (b,); NaN for a single one."""
    return float(values.double().std()) / len(values) ** 0.5 if len(values) > 1 else math.nan
