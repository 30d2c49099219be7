"""Attention matrix variation (AMV): how far an attack moves a masked model's attention, and a purifier moves it back.

Axes: b images, t layers, h heads, n tokens. A view fixes everything random (masks, noise) per image, so that clean,
adversarial and purified images are compared under the same mask.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", sections 3.1 and 3.3. The paper writes
||A_adv - A||_2 and leaves open which norm, how heads are joined, and which layer; all conventions are options here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from rp_models import noise
from rp_models.mae import MaskedAutoencoder
from rp_models.mask import Mask, random_mask
from rp_models.maskdit import MaskDiT, masked_denoising_loss
from torch import Tensor

from rp_purify.descent import SignDescent
from rp_purify.purifier import image_indices

Norm = Literal["frobenius", "spectral"]
Heads = Literal["each", "mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """How two attention matrices are compared.

    Attributes:
        norm: of the difference.
        heads: "each": the norm of each head's difference, averaged; "mean": the norm of the heads' mean difference.
        drop_cls: leave out the class token's row and column (MAE; MaskDiT has none), without renormalising rows.
        squared: square each norm before averaging, as in Theorem 3.2.
    """

    norm: Norm = "frobenius"
    heads: Heads = "each"
    drop_cls: bool = False
    squared: bool = False

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
        convention: norm and heads.

    Returns:
        Tensor (b,), at most sqrt(2 n) (2 n if squared), and 0 for equal weights.

    Raises:
        ValueError: if the shapes differ.
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


class Seen(NamedTuple):
    """What a view sees in images: the loss (b,) and the decoder's attention, one (b, h, n, n) a layer."""

    loss: Tensor
    attention: list[Tensor]


class View(Protocol):
    """A masked model that looks at images with the mask (and noise) that belongs to each image's index."""

    def __call__(self, x: Tensor, index: Tensor) -> Seen:
        """Loss and decoder attention of images (b, c, h, w) in [0, 1] with indices (b,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class MAEView:
    """Looks at images with a masked autoencoder; the paper's figures have a mask rate of 0.5.

    Attributes:
        model: the autoencoder.
        mask_rate: share of hidden patches.
        seed: of the masks.
    """

    model: MaskedAutoencoder
    mask_rate: float = 0.5
    seed: int = 0

    def mask(self, index: Tensor) -> Mask:
        """The masks of these images."""
        values = noise.uniform((self.model.tokens,), seed=self.seed, purpose="amv mask", index=index)
        return random_mask(values, self.mask_rate)

    @torch.no_grad()
    def __call__(self, x: Tensor, index: Tensor) -> Seen:
        """Reconstruction loss and decoder attention of images (b, c, h, w) in [0, 1] with indices (b,)."""
        mask = self.mask(index)
        return Seen(self.model.loss(x, mask), self.model.attention_maps(x, mask, part="decoder"))

    @torch.no_grad()
    def reconstruction(self, x: Tensor, index: Tensor) -> Tensor:
        """The images (b, c, h, w), hidden patches predicted and the others kept, limited to [0, 1]."""
        return self.model.reconstruct(x, self.mask(index)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class MaskDiTView:
    """Looks at images with a pixel-space MaskDiT at one noise level.

    Attributes:
        model: the denoiser of images scaled to [-1, 1].
        sigma: noise level in the units of [-1, 1].
        mask_rate: share of masked patches.
        seed: of masks and noise.
    """

    model: MaskDiT
    sigma: float = 0.34
    mask_rate: float = 0.5
    seed: int = 0

    @torch.no_grad()
    def __call__(self, x: Tensor, index: Tensor) -> Seen:
        """MaskDiT's training loss and decoder attention of images (b, c, h, w) in [0, 1] with indices (b,)."""
        values = noise.uniform((self.model.tokens,), seed=self.seed, purpose="amv mask", index=index)
        mask = random_mask(values, self.mask_rate)
        unit = noise.normal(x.shape[1:], seed=self.seed, purpose="amv noise", index=index, dtype=x.dtype)
        sigma = torch.full((len(x),), self.sigma, device=x.device, dtype=x.dtype)
        loss = masked_denoising_loss(self.model, 2 * x - 1, sigma=sigma, noise=unit, mask=mask)
        noisy = 2 * x - 1 + self.sigma * unit
        return Seen(loss, self.model.attention_maps(noisy, sigma, mask=mask, part="decoder"))


class Variation(NamedTuple):
    """AMV and loss of images against clean ones.

    Attributes:
        layers: AMV (b, t) of each decoder layer; the last column is the paper's figure.
        clean_loss: (b,).
        loss: (b,), of the other images.
    """

    layers: Tensor
    clean_loss: Tensor
    loss: Tensor


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
        view: the model that looks.
        clean: images (b, c, h, w) in [0, 1].
        other: attacked or purified images of the same shape.
        index: int64 (b,), image indices: they choose the masks.
        convention: see `Convention`.
        batch_size: images at a time.
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
    """One point of a curve: means over images.

    Attributes:
        position: the radius or the number of steps.
        amv: of the last decoder layer.
        layers: of each decoder layer.
        loss: of the attacked or purified images.
        clean_loss: of the clean images.
        amv_error: standard error of `amv`, over images.
        loss_error: standard error of `loss`.
    """

    position: float
    amv: float
    layers: list[float]
    loss: float
    clean_loss: float
    amv_error: float
    loss_error: float


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
        view: the model that looks.
        clean: images (b, c, h, w) in [0, 1].
        perturb: gives the attacked images for a radius in pixel units of [0, 1].
        radii: the radii.
        index: int64 (b,), image indices.
        convention: see `Convention`.
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
        clean: images (b, c, h, w) in [0, 1].
        attacked: the images that are purified.
        purifier: MAE-Pure or MaskDiT-Pure.
        seed: of its noise.
        index: int64 (b,), image indices.
        every: steps between two points; the first and the last step are always there.
        convention: see `Convention`.
    """
    images = enumerate(purifier.trajectory(attacked, seed=seed, index=index))
    chosen = ((float(step), image) for step, image in images if step % every == 0 or step == purifier.steps)
    return _curve(view, clean, chosen, index, convention)


def central_target(mask: Mask) -> Tensor:
    """The hidden patch nearest to the middle of each image, int64 (b,); of several the first, row by row.

    Args:
        mask: over a square grid of patches.
    """
    tokens = mask.mask.shape[1]
    grid = round(tokens**0.5)
    patch = torch.arange(tokens, device=mask.mask.device)
    distance = sum((place - (grid - 1) / 2).square() for place in (patch // grid, patch % grid))
    return torch.where(mask.mask == 1, distance, torch.inf).argmin(dim=1)


def target_attention(attention: Tensor, mask: Mask, patch: int | Tensor) -> Tensor:
    """How much each visible patch matters for the reconstruction of one hidden patch (the paper's Fig. 2 and 8).

    Args:
        attention: an MAE decoder layer's weights (b, h, 1 + n, 1 + n), usually the last layer's.
        mask: the masks that were used.
        patch: number of the target patch, row by row from 0, hidden: one for all images or int64 (b,).

    Returns:
        Tensor (b, n) in image order, averaged over heads, NaN at hidden patches. Compare pictures on one colour scale.

    Raises:
        ValueError: if a target is not hidden.
    """
    count, tokens = mask.mask.shape
    if attention.shape[-1] != tokens + 1:
        raise ValueError(
            f"expected attention over a class token and {tokens} patches, got {attention.shape[-1]} tokens"
        )
    rows, target = torch.arange(count, device=attention.device), torch.as_tensor(patch, device=attention.device)
    target = target.expand(count)
    if not bool(((target >= 0) & (target < tokens)).all()) or not bool((mask.mask[rows, target] == 1).all()):
        raise ValueError(f"the target must be a hidden patch in 0..{tokens - 1}, got {patch}")
    weights = attention.mean(dim=1)[rows, 1 + target, 1:]
    return weights.masked_fill(mask.mask == 1, torch.nan)


def moved_attention(weights: Tensor, other: Tensor) -> Tensor:
    """The share of a target's attention to visible patches that lies elsewhere: their total variation distance.

    Args:
        weights: (b, n) of `target_attention`, NaN at hidden patches.
        other: the same of attacked or purified images, same masks and targets.

    Returns:
        Tensor (b,) in [0, 1].
    """
    before, after = (part.nan_to_num(0.0) / part.nansum(dim=1, keepdim=True) for part in (weights, other))
    return (after - before).abs().sum(dim=1) / 2


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
