"""Signs of gradients in lower precision against those in float32."""

from contextlib import contextmanager

import pytest
import torch
from rp_attacks import PGD, evaluate
from torch import nn


class Rounded(nn.Module):
    """A linear classifier; outside a block its gradient has a share of wrong signs."""

    def __init__(self, share: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(48, 3, generator=generator)
        self.wrong, self.full = torch.where(torch.arange(48) < 48 * share, -1.0, 1.0), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(1)
        if not self.full:  # the value stays, the slope changes
            pixels = pixels * self.wrong + (pixels * (1 - self.wrong)).detach()
        return pixels @ self.weight

    @contextmanager
    def full_precision(self):
        self.full = True
        yield
        self.full = False


@pytest.mark.parametrize(("share", "level"), [(0.0, "ok"), (0.25, "alarm")])
def test_the_share_of_signs_that_differ_is_found(share: float, level: str) -> None:
    model = Rounded(share).eval()
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(dim=1)
    attacks = {"pgd": PGD(eps=0.01, step_size=0.005, steps=2)}
    report = evaluate(model, x, y, attacks, seed=0, probes=4, full_precision=model.full_precision)
    (finding,) = (finding for finding in report.findings if finding.check == "precision")
    assert finding.level == level
    assert f"exact {share:.1%}" in finding.text
    assert not [f for f in evaluate(model, x, y, attacks, seed=0, probes=4).findings if f.check == "precision"]
