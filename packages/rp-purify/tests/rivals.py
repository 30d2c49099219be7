"""The networks of the references' golden files, and their given noise."""

from typing import Any

import torch
from rp_models import build
from rp_models.importers.guided_diffusion import read_guided_diffusion
from rp_models.importers.score_sde import read_score_sde
from rp_testing import Golden, fill_state, fill_value
from torch import Tensor, nn


def state_of(golden: Golden) -> dict[str, Tensor]:
    """The reference's weights under the reference's names."""
    return {key: torch.from_numpy(value) for key, value in fill_state(golden.shapes).items()}


def score_network(golden: Golden, folder: Any) -> nn.Module:
    """The DDPM++ network of a golden file, from a file of the reference's layout."""
    torch.save(state_of(golden), folder / "score.pt")
    size = golden.config["net"]["image_size"]
    return read_score_sde(folder / "score.pt", img_resolution=size, dropout=0.0).build()


def guided_network(golden: Golden, folder: Any) -> nn.Module:
    """The U-Net of guided-diffusion of a golden file."""
    torch.save(state_of(golden), folder / "guided.pt")
    size = golden.config["net"]["image_size"]
    return read_guided_diffusion(folder / "guided.pt", img_resolution=size, use_fp16=False).build()


def edm_network(golden: Golden) -> nn.Module:
    """The EDM network of a golden file."""
    return golden.fill(build("edm", **golden.config["net"])).eval()


def small_classifier(golden: Golden) -> nn.Module:
    """The classifier of a golden file."""
    size = golden["in_x"].shape[-1] // 4
    layers = (nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Tanh())
    classifier = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * size * size, 10))
    values = {
        key: torch.from_numpy(fill_value(f"{golden.name}/classifier/{key}", tuple(value.shape), 1.4))
        for key, value in classifier.state_dict().items()
    }
    classifier.load_state_dict(values)
    return classifier.eval()
