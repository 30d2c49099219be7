"""A defence may refuse what is no image: no attack asks about pixels outside [0, 1]."""

import pytest
import torch
from rp_attacks import APGD, FAB, PGD, SPSA, AutoAttack, CarliniWagner, DeepFool, RayS, Square
from torch import Tensor, nn

ATTACKS = {
    "pgd": PGD(eps=0.2, step_size=0.1, steps=3),
    "pgd-l2": PGD(norm="l2", eps=1.0, step_size=0.5, steps=3),
    "pgd-l1": PGD(norm="l1", eps=5.0, step_size=2.0, steps=3),
    "pgd-kl": PGD(eps=0.2, step_size=0.1, steps=2, loss="kl", start="gaussian"),
    "apgd": APGD(eps=0.2, steps=5),
    "apgd-ce of the library": AutoAttack(eps=0.05, attacks=("apgd-ce",)),
    "fab": FAB(eps=0.1, steps=3, targets=2),
    "square": Square(eps=0.1, queries=10),
    "spsa": SPSA(eps=0.1, steps=2, samples=3),
    "spsa-gaussian": SPSA(eps=0.1, steps=2, samples=3, directions="gaussian", delta=0.05),
    "rays": RayS(eps=0.1, queries=20),
    "cw": CarliniWagner(eps=1.0, steps=5, search_steps=2),
    "deepfool": DeepFool(eps=1.0, steps=3),
}


class Strict(nn.Module):
    """A linear classifier that refuses what is no image."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(5, 64, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        assert float(x.detach().min()) >= 0.0, f"asked about {float(x.detach().min())}"
        assert float(x.detach().max()) <= 1.0, f"asked about {float(x.detach().max())}"
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_asks_about_something_that_is_no_image(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(4, 1, 8, 8, generator=generator)
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))  # many pixels lie on the bounds
    model = Strict()
    y = model(x).argmax(dim=1)
    ATTACKS[name](model, x, y, seed=0)
