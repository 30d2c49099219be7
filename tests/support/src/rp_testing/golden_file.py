"""Reading golden files: fill a model as the recipe says, compare what it computes with what the reference computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rp_testing.recipe import fill_state

FILES = Path(__file__).parent / "golden"


class Golden:
    """One golden file: its arrays as tensors, its configuration, its keys and shapes."""

    def __init__(self, name: str) -> None:
        self.name = name
        with np.load(FILES / f"{name}.npz") as file:
            self.arrays = dict(file)
        self.config: dict[str, Any] = json.loads(str(self.arrays["config"]))
        self.shapes = {
            str(key): tuple(int(n) for n in str(shape).split("x") if n)
            for key, shape in zip(self.arrays.get("keys", ()), self.arrays.get("shapes", ()), strict=True)
        }

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def check_keys(self, model: nn.Module) -> None:
        """The model's state-dict keys, their order and shapes are the reference's."""
        assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == self.shapes
        assert list(model.state_dict()) == list(self.shapes)

    def fill(self, model: nn.Module) -> nn.Module:
        """Fill every entry of the state dict as the recipe does, under the reference's names."""
        self.check_keys(model)
        values = fill_state(self.shapes, self.config.get("gain", 1.0))
        model.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in values.items()})
        return model

    def check(self, *, tolerance: float = 1e-5, **computed: Tensor) -> None:
        """Each computed tensor equals the recorded array of its name to `tolerance` times max(1, largest value).

        float32 sums in another order (fused attention, another convolution) differ by about 1e-6 of the largest value.
        """
        for key, value in computed.items():
            recorded = self[key].to(torch.float32)
            scale = max(1.0, recorded.abs().max().item())
            torch.testing.assert_close(
                value.detach().to(torch.float32),
                recorded,
                rtol=0,
                atol=tolerance * scale,
                msg=lambda text, key=key: f"{self.name}: {key}: {text}",
            )
