"""How the authors of a purifier attacked it, as settings; importing this does not import torch."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """An attack in the maximum norm and a verdict, as a paper's public code has them."""

    attack: Literal["pgd", "apgd"] = "pgd"  # apgd: AutoAttack rand, the worse of APGD-CE and APGD-DLR
    steps: int
    eot: int  # passes whose gradients are averaged
    step: float = 0.25  # step size of PGD, in units of eps
    start: Literal["uniform", "clean"] = "uniform"  # of PGD
    early_stop: bool = False  # leave an image as soon as it is misclassified, and keep the best iterate
    grad: str = "exact"  # the backward rule, where the purifier has it, else exact
    on: Literal["system", "classifier"] = "system"  # what is attacked
    logits: bool = False  # attack the mean logits of the passes, not their mean gradient
    judged: int = 1  # passes whose mean logits judge
    passes: int = 1  # verdict passes
    verdict: Literal["per_query", "majority"] = "per_query"  # what the paper reports

    def within(self, *, steps: int, eot: int) -> "Protocol":
        """The protocol with at most so many steps and passes a gradient, and ten times as many that judge."""
        most = {"steps": steps, "eot": eot, "judged": 10 * eot}
        return replace(self, **{name: min(getattr(self, name), value) for name, value in most.items()})

    def in_words(self) -> str:
        """One line."""
        name = "AutoAttack rand" if self.attack == "apgd" else f"PGD-{self.steps}"
        size = "" if self.attack == "apgd" else f", steps of {self.step:g} eps"
        way = "the classifier alone" if self.on == "classifier" else f"{self.eot} passes a gradient ({self.grad})"
        judge = f", judged by the mean logits of {self.judged} passes" if self.judged > 1 else ""
        judge += f", majority of {self.passes}" if self.verdict == "majority" else ""
        return f"{name} on {way}{size}{judge}" if self.on == "classifier" else f"{name}, {way}{size}{judge}"
