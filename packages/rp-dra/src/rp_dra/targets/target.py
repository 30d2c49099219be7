"""What an alignment target is, and how a training step asks one: a frozen network, its random draws made outside.

Axes: b batch, c channels, h w image, d features, n positions, r representations of an image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from rp_models import noise as randomness
from rp_models.precision import autocast, float32_products
from rp_models.settings import PRECISIONS, check_choice
from rp_models.settings import Precision as Precision
from torch import Tensor, nn

Label = Literal["class", "null"]


class Target(Protocol):
    """What a classifier's features are aligned with: images, labels and noise in, features out, no gradient."""

    random_level: bool  # whether a training step takes a second representation, at a random noise level (`represent`)

    def __call__(self, x: Tensor, y: Tensor | None, *, noise: Tensor, level: Tensor | None = None) -> Tensor:
        """Features (b, d) of images x (b, c, h, w) in [0, 1] with labels y (b,); (b, n, d) with `positions`.

        Args:
            y: labels, the condition where the target has one; None for none.
            noise: standard normal draws (b, *noise_shape).
            level: standard normal draws (b,) that choose each image's noise level; None for the target's own level.
        """
        ...

    def noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one image's noise, for images of shape (c, h, w)."""
        ...

    def width(self, channels: int, image_size: int) -> int:
        """The number of features d."""
        ...


class FrozenTarget(nn.Module, ABC):
    """What all targets share: eval mode for ever, no gradient, their own precision; a subclass computes the features.

    Attributes:
        positions: whether features come with their positions, (b, n, d), instead of averaged over them.

    Args:
        label: "class" passes the labels on as the condition, "null" drops them.
        precision: of the frozen network, whatever the code around it has set; the features are float32.
    """

    positions: bool = False

    def __init__(self, *, label: Label = "class", precision: Precision = "fp32", random_level: bool = False) -> None:
        super().__init__()
        if label not in get_args(Label):
            raise ValueError(f"label must be 'class' or 'null', got {label!r}")
        check_choice("precision", precision, PRECISIONS)
        self.label, self.precision, self.random_level = label, precision, random_level

    def train(self, mode: bool = True) -> "FrozenTarget":
        """Stays in eval mode, whatever the model around it does."""
        return super().train(False)

    def compile_features(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile what the frozen network computes, in place; `ComputeSettings.compile` of a training does so."""
        parts = [part for part in self.modules() if isinstance(part, FrozenTarget)]
        for part in parts[1:] or parts:  # of joined targets each by itself
            part._features = torch.compile(part._features, backend=backend)  # type: ignore[method-assign]

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor | None, *, noise: Tensor, level: Tensor | None = None) -> Tensor:
        """Features of images, without graph; see `differentiable`."""
        return self.differentiable(x, y, noise=noise, level=level)

    def differentiable(self, x: Tensor, y: Tensor | None, *, noise: Tensor, level: Tensor | None = None) -> Tensor:
        """Features of images, differentiable in the images; Tensor (b, d), or (b, n, d) with `positions`, float32.

        Args:
            y: labels (b,), the condition; None for the unconditional features.
            noise: standard normal draws (b, *noise_shape).
            level: standard normal draws (b,) that choose each image's noise level; None for the target's own level.
        """
        expected = (len(x), *self.noise_shape(x.shape[1:]))
        if tuple(noise.shape) != expected:
            raise ValueError(f"noise must have shape {expected} for these images, got {tuple(noise.shape)}")
        if level is not None and level.shape != (len(x),):
            raise ValueError(f"level must hold one draw for each of the {len(x)} images, got {tuple(level.shape)}")
        with float32_products(self.precision), autocast(x.device, self.precision):
            features = self._features(x, None if self.label == "null" else y, noise, level)
            features = with_positions(features) if self.positions else pooled(features)
        return features.to(torch.float32)

    def noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one image's noise: the image's own (c, h, w), unless a subclass says otherwise."""
        return tuple(shape)

    def width(self, channels: int, image_size: int) -> int:
        """The number of features d, found by one pass."""
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        x = torch.zeros(1, channels, image_size, image_size, device=device)
        return int(self(x, None, noise=x.new_zeros(1, *self.noise_shape(x.shape[1:]))).shape[-1])

    @abstractmethod
    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        """Features (b, d), maps (b, d, h', w') or tokens (b, n, d); arguments as in `differentiable`, checked."""


def pooled(features: Tensor) -> Tensor:
    """Features (b, d) of maps (b, d, h, w) or tokens (b, n, d), averaged over positions; others as they are."""
    if features.dim() == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.dim() == 3 else features


def with_positions(features: Tensor) -> Tensor:
    """Maps (b, d, h, w), row by row, or tokens as tokens (b, n, d).

    Raises:
        ValueError: for features without positions.
    """
    if features.dim() == 2:
        raise ValueError(
            f"this target has no positions, its features are {tuple(features.shape)}; align pooled features "
            "(alignment.loss=cosine), or take a target with maps or tokens"
        )
    return features.flatten(2).mT if features.dim() == 4 else features


def represent(target: Target, x: Tensor, y: Tensor | None, *, seed: int, draw: Tensor) -> Tensor:
    """The representations that a training step aligns its images with.

    The first is at the target's own noise level. A target with `random_level` gives a second one, with other noise, at
    a level drawn as in the diffusion model's training: the paper's additional representation per image, for trainings
    with more than one million synthetic images.

    Args:
        draw: int64 (b,), the number that each image's draws belong to.

    Returns:
        Tensor (b, r, d), with `positions` (b, r, n, d); r = 1, or 2 for `random_level`. Source: Appendix D of the DRA
        paper.
    """
    shape = target.noise_shape(x.shape[1:])
    eps = randomness.normal(shape, seed=seed, purpose="target noise", index=draw)
    representations = [target(x, y, noise=eps)]
    if target.random_level:
        other = randomness.normal(shape, seed=seed, purpose="target noise at a random level", index=draw)
        level = randomness.normal((), seed=seed, purpose="target level", index=draw)
        representations.append(target(x, y, noise=other, level=level))
    return torch.stack(representations, dim=1)
