"""Purifiers, forward and under each of their backward rules."""

from typing import Any

import torch
from rp_models import build

from tests.gpu_cases.case import Step, batch, case, classifier, tiny_edm


def purifiers(device: str) -> dict[str, Any]:
    from rp_purify import DiffPure, LikelihoodMaximisation, MAEPure, MAEReconstruction, MaskDiTPure, OneStepDenoise

    torch.manual_seed(2)
    mae, dit, edm = build("mae-digits").to(device), build("maskdit-digits").to(device), tiny_edm(0).to(device).eval()
    return {
        "mae-pure 3 steps": MAEPure(mae, steps=3, step_size=0.01, eta=0.1),
        "maskdit-pure 3 steps": MaskDiTPure(dit, steps=3, step_size=0.01, eta=0.1),
        "diffpure 3 sde steps": DiffPure(edm, times=100, steps=3),
        "diffpure 2 ode steps": DiffPure(edm, times=100, steps=2, solver="ode"),
        "likelihood 2 steps": LikelihoodMaximisation(edm, steps=2),
        "mae reconstruction": MAEReconstruction(mae),
        "one-step denoise": OneStepDenoise(dit),
    }


def _purify(name: str) -> None:
    @case(f"purify/{name}, forward")
    def _(device: str) -> Step:
        x, purifier = batch(device)[0], purifiers(device)[name]
        index = torch.arange(len(x), device=device)
        return lambda number: purifier(x, seed=number, index=index)

    @case(f"purify/{name}, gradients")
    def _(device: str) -> Step:
        from rp_purify import Defended

        x, y = batch(device)
        index = torch.arange(len(x), device=device)
        defended = Defended(purifiers(device)[name], classifier(device)).eval()

        def step(number: int) -> Any:
            found = {}
            for rule in defended.gradients:
                leaf = x.clone().requires_grad_()
                logits = defended.with_gradient(rule).with_noise(seed=number, index=index)(leaf)
                (found[rule],) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), leaf)
            return found

        return step


for _name in (
    "mae-pure 3 steps",
    "maskdit-pure 3 steps",
    "diffpure 3 sde steps",
    "diffpure 2 ode steps",
    "likelihood 2 steps",
    "mae reconstruction",
    "one-step denoise",
):
    _purify(_name)


@case("purify/amv over the steps")
def _(device: str) -> Step:
    from rp_purify import MAEPure
    from rp_purify.amv import curve_over_steps
    from rp_purify.views import MAEView

    x, _ = batch(device)
    torch.manual_seed(0)
    mae = build("mae-digits").to(device)
    purifier = MAEPure(mae, steps=4, step_size=0.02, eta=0.15)
    index = torch.arange(len(x), device=device)
    view = MAEView(model=mae, mask_rate=0.5, seed=0)
    return lambda number: curve_over_steps(view, x, (x + 0.05).clamp(0, 1), purifier, seed=number, index=index)
