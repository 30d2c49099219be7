"""PGD adversarial training: cross-entropy on the images that raise it."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

from rp_attacks.losses import cross_entropy
from rp_attacks.norms import project
from rp_attacks.pgd import ascend
from rp_attacks.problem import check_choice
from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra.objectives.inner import Ball, check_attack, check_loss, uniform_start
from rp_dra.objectives.objective import Objective, Outcome
from rp_dra.objectives.passes import accuracy, classify, eval_mode, frozen_if_compiled, full_precision


@dataclass(frozen=True, kw_only=True, slots=True)
class PgdAt(Objective):
    """PGD-AT as DM-AT does it.

    The attack runs in eval mode (running statistics) and raises the cross-entropy. It starts from a uniform point of
    the ball (Linf), or from a uniform image of [0, 1] pulled back to the ball's surface (L2). Then the adversarial
    images alone go through the model in train mode; batch norms see no natural image, and there is no natural pass
    that could be joined with it. Labels may be probabilities; attack and loss then use them alike.

    Source: Madry et al. 2018, arXiv:1706.06083; the constants and orders of Wang et al. 2023, arXiv:2302.04638.
    """

    label_smoothing: float = 0.0  # of the loss, not of the attack; published: none
    eps: float = 8 / 255  # radius, in [0, 1] pixel units
    step_size: float = 2 / 255  # of the attack, in the same norm
    steps: int = 10  # of the attack
    norm: Ball = "linf"  # of ball and step
    # of the classifier during the attack; "train", as Rice et al. 2020, arXiv:2002.11569, and AWP run it: batch
    # statistics, and each pass of the attack moves the running ones
    attack_mode: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        check_attack(self.norm, self.eps, self.step_size, self.steps)
        check_loss(0.0, self.label_smoothing)
        check_choice("attack_mode", self.attack_mode, ("eval", "train"))

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Tensor:
        """See `Objective`."""
        with eval_mode(model) if self.attack_mode == "eval" else nullcontext(), frozen_if_compiled(model):
            return ascend(
                lambda z: cross_entropy(full_precision(model(z)), y),
                x,
                self._start(x, start_noise),
                norm=self.norm,
                eps=self.eps,
                step_size=self.step_size,
                steps=self.steps,
                box_first=True,  # as published: clip to [0, 1], then project on the L2 ball
            )

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """See `Objective`."""
        del x, trial
        features, logits = classify(model, x_adv)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        return Outcome(loss, features, x_adv, {"robust_accuracy": accuracy(logits, y)})

    def _start(self, x: Tensor, noise: Tensor) -> Tensor:
        if self.norm == "linf":
            return uniform_start(x, noise, self.eps)
        return project(noise.to(x), x, norm="l2", eps=self.eps)  # the draws are themselves an image
