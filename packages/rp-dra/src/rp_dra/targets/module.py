"""Targets made of any network, and of several targets."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rp_dra.targets.target import FrozenTarget, Precision


class ModuleTarget(FrozenTarget):
    """Features of any frozen network, pooled if they have positions.

    Args:
        network: images (b, c, h, w) in [0, 1] to features (b, d), maps (b, d, h', w') or tokens (b, n, d), the last two
            averaged over positions; frozen and put into eval mode.
        sigma: standard deviation of Gaussian noise on the images, in [0, 1] pixel units; 0 for none.
    """

    def __init__(self, network: nn.Module, *, sigma: float = 0.0, precision: Precision = "float32") -> None:
        super().__init__(label="null", precision=precision)
        if sigma < 0:
            raise ValueError(f"sigma must not be negative, got {sigma}")
        self.network = network.eval().requires_grad_(False)
        self.sigma = sigma

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        if level is not None:
            raise ValueError("this target has no noise levels; pass level=None")
        features = self.network(x + self.sigma * noise if self.sigma else x)
        if not isinstance(features, Tensor) or features.dim() not in (2, 3, 4) or len(features) != len(x):
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"the network must give features ({len(x)}, d), tokens ({len(x)}, n, d) or maps ({len(x)}, d, h, w), "
                f"got {found}; wrap it in a module that does"
            )
        if features.dim() == 4:
            return features.mean(dim=(2, 3))
        return features.mean(dim=1) if features.dim() == 3 else features


class JoinedTarget(FrozenTarget):
    """The features of several targets side by side, e.g. of one denoiser at several noise levels and layers.

    Each target has noise of its own. Every target makes its own pass, also where two could share one.

    Args:
        targets: at least one, with noise of the same size; they keep their own labels and precisions.
    """

    def __init__(self, targets: Sequence[FrozenTarget]) -> None:
        super().__init__()
        if not targets:
            raise ValueError("targets is empty: give at least one")
        self.targets = nn.ModuleList(targets)
        self.eval()

    def noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The noise of all targets, one after another along the first axis."""
        shapes = self._noise_shapes(shape)
        if len({rest[1:] for rest in shapes}) != 1:
            raise ValueError(f"the targets' noise must have the same size, got {shapes}")
        return (sum(first for first, *_ in shapes), *shapes[0][1:])

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        parts = noise.split([first for first, *_ in self._noise_shapes(x.shape[1:])], dim=1)
        return torch.cat(
            [
                target.differentiable(x, y, noise=part, level=level)  # type: ignore[operator]
                for target, part in zip(self.targets, parts, strict=True)
            ],
            dim=1,
        )

    def _noise_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        return [target.noise_shape(shape) for target in self.targets]  # type: ignore[operator]
