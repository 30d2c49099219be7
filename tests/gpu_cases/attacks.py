"""Attacks and evaluations."""

from typing import Any

import torch
from rp_models import build

from tests.gpu_cases.case import Step, batch, case, classifier


def attacks() -> dict[str, Any]:
    from rp_attacks import APGD, FAB, PGD, SPSA, AutoAttack, CarliniWagner, DeepFool, LibrarySquare, RayS, Square

    eps = 0.1
    return {
        "pgd-10": PGD(eps=eps, step_size=0.02, steps=10),
        "pgd-10 best": PGD(eps=eps, step_size=0.02, steps=10, select="best"),
        "pgd-10 best early stop": PGD(eps=eps, step_size=0.02, steps=10, select="best", early_stop=True),
        "pgd-10 eot 4 chunk 2": PGD(eps=eps, step_size=0.02, steps=10, select="best", eot=4, eot_chunk=2),
        "pgd-10 l2": PGD(norm="l2", eps=1.0, step_size=0.2, steps=10),
        "pgd-10 l1 box": PGD(norm="l1", eps=3.0, step_size=0.5, steps=10, l1_box=True),
        "apgd-10 ce": APGD(eps=eps, steps=10),
        "apgd-10 targeted": APGD(eps=eps, steps=10, loss="targeted-dlr", targets=2),
        "apgd-10 l1": APGD(norm="l1", eps=3.0, steps=10),
        "square-50": Square(eps=eps, queries=50),
        "square-20 passes 3": Square(eps=eps, queries=20, passes=3),
        "rays-50": RayS(eps=eps, queries=50),
        "cw 2x10": CarliniWagner(eps=1.0, steps=10, search_steps=2),
        "deepfool-5": DeepFool(eps=1.0, steps=5),
        "spsa-2": SPSA(eps=eps, steps=2, samples=4),
        "fab": FAB(eps=eps, steps=5, targets=2),
        "library square-50": LibrarySquare(eps=eps, queries=50),
        "autoattack standard": AutoAttack(eps=eps, attacks=("apgd-ce", "apgd-t", "fab-t")),
    }


def _attack(name: str) -> None:
    @case(f"attack/{name}")
    def _(device: str) -> Step:
        x, _ = batch(device)
        model, attack = classifier(device), attacks()[name]
        y = model(x).argmax(dim=1).detach()  # right on every image, so that no attack ends before it begins
        return lambda number: attack(model, x, y, seed=number)


for _name in (
    "pgd-10",
    "pgd-10 best",
    "pgd-10 best early stop",
    "pgd-10 eot 4 chunk 2",
    "pgd-10 l2",
    "pgd-10 l1 box",
    "apgd-10 ce",
    "apgd-10 targeted",
    "apgd-10 l1",
    "square-50",
    "square-20 passes 3",
    "rays-50",
    "cw 2x10",
    "deepfool-5",
    "spsa-2",
    "fab",
    "library square-50",
    "autoattack standard",
):
    _attack(_name)


@case("attack/evaluate quick suite, classifier")
def _(device: str) -> Step:
    from rp_attacks import evaluate, suite

    x, _ = batch(device)
    model = classifier(device)
    y = model(x).argmax(dim=1).detach()
    return lambda number: evaluate(
        model, x, y, suite("quick", eps=0.1, random=False), seed=number, probes=4
    ).worst.right.tolist()


@case("attack/evaluate pgd on MAE-Pure, eot 2")
def _(device: str) -> Step:
    from rp_attacks import PGD, evaluate
    from rp_purify import Defended, MAEPure

    x, y = batch(device, 8)
    torch.manual_seed(2)
    model = Defended(
        MAEPure(build("mae-digits").to(device), steps=2, step_size=0.02, eta=0.1), classifier(device)
    ).eval()
    chosen = {
        "pgd": PGD(eps=0.1, step_size=0.05, steps=2, eot=2, select="best"),
        "pgd-ste": PGD(eps=0.1, step_size=0.05, steps=2, eot=2, select="best", grad="ste-tanh"),
    }
    return lambda number: evaluate(model, x, y, chosen, seed=number, probes=2, passes=2).worst.right.tolist()
