"""The maps or tokens of a network before they are averaged into its features.

Axes: b batch, c channels, h w image, d features, n positions.
"""

import math

import torch
from torch import Tensor, nn


class Tap:
    """Keeps the last output of one module of a network.

    Args:
        network: with `forward_features`.
        name: of the module inside it, e.g. "batchnorm" or "norm"; None for the last one whose output has positions and
            as many channels as the features.
        image: one image (1, c, h, w), with which that module is looked for.

    Attributes:
        width: channels d of the output.

    Raises:
        ValueError: if there is no such module, or its output has no positions.
    """

    def __init__(self, network: nn.Module, name: str | None, image: Tensor) -> None:
        self.last: Tensor | None = None
        self.name = name or _last_with_positions(network, image)
        modules = dict(network.named_modules())
        if self.name not in modules:
            some = ", ".join(list(modules)[1:8])
            raise ValueError(f"alignment.positions: the network has no module {self.name!r}; it has {some}, ...")
        self.module = modules[self.name]
        self.module.register_forward_hook(self._keep)
        _features(network, image)
        self.width = int(self.take().shape[-1])

    def take(self) -> Tensor:
        """The tokens (b, n, d) of the last pass, which are then forgotten."""
        found, self.last = self.last, None
        if found is None or found.dim() not in (3, 4):
            got = "none: no features come from it" if found is None else tuple(found.shape)
            raise ValueError(
                f"alignment.positions: the output of {self.name!r} must be maps (b, d, h, w) or tokens (b, n, d), got "
                f"{got}"
            )
        return found.flatten(2).mT if found.dim() == 4 else found

    def _keep(self, module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs
        self.last = output if isinstance(output, Tensor) else None


class Maps(nn.Module):
    """A network whose output is the tokens (b, n, d) of one of its modules, see `Tap`; found in the first pass."""

    def __init__(self, network: nn.Module, name: str | None = None) -> None:
        super().__init__()
        self.network, self.name = network, name
        self._tap: Tap | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to tokens (b, n, d)."""
        if self._tap is None:
            self._tap = Tap(self.network, self.name, x[:1])
        getattr(self.network, "forward_features", self.network)(x)
        return self._tap.take()


@torch.no_grad()
def _last_with_positions(network: nn.Module, image: Tensor) -> str:
    """The name of the module that was asked last among those whose output has positions and the features' width."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Identity):
            continue

        def keep(_: nn.Module, __: object, output: object, name: str = name) -> None:
            found.pop(name, None)
            if isinstance(output, Tensor):
                found[name] = output

        hooks.append(module.register_forward_hook(keep))
    try:
        width = _features(network, image).shape[-1]
    finally:
        for hook in hooks:
            hook.remove()
    fitting = [
        name
        for name, output in found.items()
        if (output.dim() == 4 and output.shape[1] == width and output.shape[2:].numel() > 1)
        or (output.dim() == 3 and output.shape[2] == width)
    ]
    if not fitting:
        raise ValueError("no module of this network gives maps or tokens of the features' width; name one")
    return fitting[-1]


@torch.no_grad()
def _features(network: nn.Module, image: Tensor) -> Tensor:
    """The features of an image in eval mode; every module stays in the mode that it is in."""
    modes = {module: module.training for module in network.modules()}
    try:
        features: Tensor = getattr(network.eval(), "forward_features", network)(image)
        return features
    finally:
        for module, training in modes.items():
            module.training = training


def grid(tokens: Tensor) -> Tensor:
    """Those of tokens (b, n, d) that make up the largest square, without a class token and registers in front."""
    return tokens[:, tokens.shape[1] - math.isqrt(tokens.shape[1]) ** 2 :]


def resample(tokens: Tensor, count: int) -> Tensor:
    """Tokens (b, n, d), see `grid`, averaged over (or spread on) a square grid of `count` positions.

    Returns:
        Tensor (b, count, d).
    """
    tokens = grid(tokens)
    have, want = (math.isqrt(number) for number in (tokens.shape[1], count))
    if have == want:
        return tokens
    maps = tokens.mT.unflatten(2, (have, have))
    return nn.functional.adaptive_avg_pool2d(maps, want).flatten(2).mT
