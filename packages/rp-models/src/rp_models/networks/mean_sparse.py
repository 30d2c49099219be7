"""MeanSparse: an operator that blocks small deviations of a feature from its mean, and the pass that measures them.

Source: Amini et al. 2024, arXiv:2406.05927, and its public code for names.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class MeanSparse(nn.Module):
    """Values within `threshold` standard deviations of their channel's mean become that mean; others pass.

    The derivative is 0 inside that band and 1 outside, so attacks need the identity's instead (BPDA) as well. With a
    threshold of 0, as built, nothing changes. All statistics are buffers of the state dict, as in the public files.

    Args:
        channels: of the features.
        dim: their axis: 1 for feature maps (b, c, h, w), -1 for tokens (b, ..., c).
        momentum: keep the two unused scalars `momentum` and `epsilon` that the files of ConvNeXt carry.
    """

    running_mean: Tensor
    running_var: Tensor
    threshold: Tensor
    flag_update_statistics: Tensor
    batch_num: Tensor

    def __init__(self, channels: int, *, dim: int = 1, momentum: bool = False) -> None:
        super().__init__()
        self.channels, self.dim = channels, dim
        if momentum:
            self.register_buffer("momentum", torch.tensor(0.1))
            self.register_buffer("epsilon", torch.tensor(1e-10))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.zeros(channels))
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("flag_update_statistics", torch.tensor(0))  # of the files; a hook does the work here
        self.register_buffer("batch_num", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Features of any shape with `channels` entries along `dim`, to features of the same shape."""
        shape = [1] * x.dim()
        shape[self.dim] = self.channels
        mean, deviation = self.running_mean.view(shape), self.running_var.sqrt().view(shape)
        return torch.where((x - mean).abs() < self.threshold * deviation, mean, x)

    def extra_repr(self) -> str:
        """Channels and their axis."""
        return f"{self.channels}, dim={self.dim}"


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the mean and the variance of every MeanSparse operator in a network from batches of training images.

    Both are means over the batches of each batch's own mean and unbiased variance. The network runs in eval mode with
    all thresholds at 0 and is left in its former mode, with thresholds still 0: choose them afterwards with
    `set_threshold`.

    Args:
        model: images to logits.
        batches: of images (b, c, h, w) in [0, 1] on the model's device; more than one value per channel in each.

    Raises:
        ValueError: if the network has no such operator, or there is no batch.
    """
    operators = set_threshold(model, 0.0)
    sums = {operator: [torch.zeros_like(operator.running_mean) for _ in range(2)] for operator in operators}
    count, was_training = 0, model.training
    hooks = [_on_input(operator, *sums[operator]) for operator in operators]
    model.eval()
    try:
        for images in batches:
            model(images)
            count += 1
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if not count:
        raise ValueError("the statistics of MeanSparse need at least one batch of images, got none")
    for operator in operators:
        mean, variance = sums[operator]
        operator.running_mean.copy_(mean / count)
        operator.running_var.copy_(variance / count)
        operator.batch_num.fill_(count)


def set_threshold(model: nn.Module, threshold: float) -> list[MeanSparse]:
    """Give every MeanSparse operator in a network this threshold, in standard deviations; returns the operators.

    Raises ValueError if the threshold is negative or the network has no such operator.
    """
    operators = [module for module in model.modules() if isinstance(module, MeanSparse)]
    if not operators:
        raise ValueError(f"{type(model).__name__} has no MeanSparse operator; build a network that has them")
    if not threshold >= 0:
        raise ValueError(f"the threshold of MeanSparse must be at least 0 standard deviations, got {threshold}")
    for operator in operators:
        operator.threshold.fill_(threshold)
    return operators


def _on_input(operator: MeanSparse, mean: Tensor, variance: Tensor) -> RemovableHandle:
    """Add the mean and the unbiased variance per channel of what enters the operator, at every call."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].movedim(operator.dim, 0).flatten(1)
        mean.add_(values.mean(dim=1))
        variance.add_(values.var(dim=1))

    return operator.register_forward_pre_hook(add)
