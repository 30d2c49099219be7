"""Several networks of one kind as one classifier that gives probabilities: the mean of their softmaxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rp_models.networks.normalization import Normalize


class SoftmaxEnsemble(nn.Module):
    """The mean of the members' softmaxes, keys `models.0.conv1, ...`; probabilities come out, not logits.

    That is what RobustBench's ensembles give, and what its figures were measured on.

    Args:
        member: the members' name in the zoo.
        count: of members.
        arguments: of each member, without `num_classes`, `mean` and `std`.
        num_classes: number of probabilities.
        mean: per-channel mean that is subtracted once from images in [0, 1]; None for none.
        std: per-channel standard deviation; None with `mean=None`.
    """

    def __init__(
        self,
        member: str,
        count: int,
        arguments: Mapping[str, Any] | None = None,
        num_classes: int = 10,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        from rp_models import zoo  # which names this class

        super().__init__()
        self.normalize = Normalize(3, mean, std)
        members = (zoo.build_entry(member, num_classes=num_classes, **(arguments or {})) for _ in range(count))
        self.models = nn.ModuleList(members)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, 3, h, w) in [0, 1] to all members' pooled features (b, d), one behind the other."""
        x = self.normalize(x)
        return torch.cat([model.forward_features(x) for model in self.models], dim=1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, 3, h, w) in [0, 1] to probabilities (b, k)."""
        x = self.normalize(x)
        return torch.stack([model(x).softmax(dim=1) for model in self.models]).mean(dim=0)
