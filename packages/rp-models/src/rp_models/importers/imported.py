"""What importers return, and what several of them read off a state dict."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rp_models import checkpoint, zoo


class Imported(NamedTuple):
    """An official file in the terms of this package: a name of the zoo, arguments for `build`, tensors by key."""

    architecture: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]

    def build(self) -> nn.Module:
        """The network with the file's weights, in eval mode.

        Raises CheckpointError if the weights do not fit the network, naming the keys.
        """
        model = zoo.build(self.architecture, **self.arguments)
        checkpoint.load_state(model, self.state, origin="the imported file")
        return model.eval()


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """The number of blocks `<prefix>0.`, `<prefix>1.`, ... in a state dict."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def expected_state(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's state dict on the meta device: names and shapes, no values."""
    with torch.device("meta"):
        return zoo.build(architecture, **arguments).state_dict()


def averaging_filters(expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The constants by which an EDM network with the filter (1, 1) resamples, which other public layouts leave out."""
    return {key: torch.full(like.shape, 0.25) for key, like in expected.items() if key.endswith("resample_filter")}
