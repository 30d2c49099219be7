"""Targets made of any network, and of several targets."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rp_dra.targets.latent import fit_image
from rp_dra.targets.target import FrozenTarget, Precision


class ModuleTarget(FrozenTarget):
    """Features of any frozen network, pooled if they have positions.

    Args:
        network: images (b, c, h, w) in [0, 1] to features (b, d), maps (b, d, h', w') or tokens (b, n, d), the last two
            averaged over positions; frozen and put into eval mode.
        sigma: standard deviation of Gaussian noise on the images, in [0, 1] pixel units; 0 for none.
        image_size: height and width to which images are scaled for the network; None leaves them.
        channels: of the network's images; images of one channel are repeated. None for the images' own.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        sigma: float = 0.0,
        image_size: int | None = None,
        channels: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(label="null", precision=precision)
        if sigma < 0:
            raise ValueError(f"sigma must not be negative, got {sigma}")
        self.network = network.eval().requires_grad_(False)
        self.sigma, self.image_size, self.channels = sigma, image_size, channels

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        if level is not None:
            raise ValueError("this target has no noise levels; pass level=None")
        if self.sigma:
            x = x + self.sigma * noise
        if self.channels is not None and x.shape[1] == 1:
            x = x.expand(-1, self.channels, -1, -1)
        features = self.network(x if self.image_size is None else fit_image(x, self.image_size))
        if not isinstance(features, Tensor) or features.dim() not in (2, 3, 4) or len(features) != len(x):
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"the network must give features ({len(x)}, d), tokens ({len(x)}, n, d) or maps ({len(x)}, d, h, w), "
                f"got {found}; wrap it in a module that does"
            )
        return features


class JoinedTarget(FrozenTarget):
    """The features of several targets side by side, e.g. of one denoiser at several noise levels and layers.

    Each target has noise of its own. Every target makes its own pass, also where two could share one.

    Args:
        targets: at least one, with noise of the same size; they keep their own labels and precisions.
        random_level: give a second representation of each image, in which all targets are at the same random level.
    """

    def __init__(self, targets: Sequence[FrozenTarget], *, random_level: bool = False) -> None:
        super().__init__(random_level=random_level)
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
        found = []
        for target, part in zip(self.targets, parts, strict=True):
            target.positions = self.positions  # type: ignore[assignment]
            found.append(target.differentiable(x, y, noise=part, level=level))  # type: ignore[operator]
        if len({features.shape[:-1] for features in found}) != 1:
            shapes = ", ".join(str(tuple(features.shape[1:])) for features in found)
            raise ValueError(f"the targets' features must have the same positions to stand side by side, got {shapes}")
        return torch.cat(found, dim=-1)

    def _noise_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        return [target.noise_shape(shape) for target in self.targets]  # type: ignore[operator]
