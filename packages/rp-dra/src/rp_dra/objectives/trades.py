"""TRADES, as DM-AT runs it and as its authors published it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra.objectives.inner import Ball, check_attack, check_loss, near_start, raise_divergence, uniform_start
from rp_dra.objectives.objective import Noise, Objective, Outcome
from rp_dra.objectives.passes import (
    batch_statistics,
    classify,
    classify_both,
    eval_mode,
    two_part_metrics,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trades(Objective):
    """TRADES as DM-AT does it.

    The attack runs on batch statistics (train mode, running statistics untouched) and raises the KL divergence to the
    natural probabilities, which are computed once. It starts from a uniform point of the ball (Linf) or from
    x + 0.001 N(0, 1) (L2). Then natural and adversarial images go through the model in two separate train-mode passes.
    The gradient flows through both sides of the KL term. Labels may be probabilities; only the cross-entropy sees them.

    Attributes:
        step_size: of the attack, in the same norm; the published L2 attack takes 2 * eps / steps whatever is set.
        joint_forward: natural and adversarial images in one pass; see `classify_both` for what batch norms make of it.

    Source: Zhang et al. 2019, arXiv:1901.08573; Wang et al. 2023, arXiv:2302.04638 and their published code.
    """

    beta: float = 5.0  # weight of the robust term
    label_smoothing: float = 0.1  # of the natural cross-entropy
    eps: float = 8 / 255  # radius, in [0, 1] pixel units
    step_size: float = 2 / 255
    steps: int = 10  # of the attack
    norm: Ball = "linf"  # of ball and step
    joint_forward: bool = False

    def __post_init__(self) -> None:
        check_attack(self.norm, self.eps, self.step_size, self.steps)
        check_loss(self.beta, self.label_smoothing)

    @property
    def noise(self) -> Noise:
        """Uniform for Linf, normal for L2."""
        return "uniform" if self.norm == "linf" else "normal"

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Tensor:
        """See `Objective`."""
        del y
        with self._attacked(model):
            return raise_divergence(
                model,
                x,
                self._start(x, start_noise),
                norm=self.norm,
                eps=self.eps,
                step_size=self.step_size,
                steps=self.steps,
            )

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """See `Objective`."""
        del trial
        features_nat, logits, features, logits_adv = classify_both(model, x, x_adv, joint=self.joint_forward)
        natural = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        robust = divergence(self._again(model, x, logits), logits_adv)
        metrics = two_part_metrics(natural, robust, logits, logits_adv, y)
        return Outcome(natural + self.beta * robust, features, x_adv, metrics, features_nat)

    def _start(self, x: Tensor, start_noise: Tensor) -> Tensor:
        """Where the attack starts."""
        return uniform_start(x, start_noise, self.eps) if self.norm == "linf" else near_start(x, start_noise)

    def _attacked(self, model: nn.Module) -> AbstractContextManager[None]:
        """The model's mode during the attack."""
        return batch_statistics(model)

    def _again(self, model: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        """The natural logits of the KL term."""
        return logits


@dataclass(frozen=True, kw_only=True, slots=True)
class TradesOriginal(Trades):
    """TRADES as its authors published it.

    The attack runs in eval mode (running statistics) from x + 0.001 N(0, 1). Then three train-mode passes follow, in
    this order: natural images for the cross-entropy, adversarial images, natural images again for the KL term; running
    statistics of batch norms move three times. The gradient flows through all three. Labels may be probabilities; only
    the cross-entropy sees them. `joint_forward` makes one pass of the three, without the second natural one.

    Source: Zhang et al. 2019, arXiv:1901.08573, and their published code.
    """

    beta: float = 6.0
    label_smoothing: float = 0.0
    eps: float = 0.031
    step_size: float = 0.007

    @property
    def noise(self) -> Noise:
        """Normal, in both norms."""
        return "normal"

    def _start(self, x: Tensor, start_noise: Tensor) -> Tensor:
        return near_start(x, start_noise)

    def _attacked(self, model: nn.Module) -> AbstractContextManager[None]:
        return eval_mode(model)

    def _again(self, model: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return logits if self.joint_forward else classify(model, x)[1]


def divergence(logits: Tensor, logits_adv: Tensor) -> Tensor:
    """The batch mean of KL(softmax(logits) || softmax(logits_adv)), differentiable in both.

    Both sides are log-probabilities: with probabilities on the left, one that rounds to 0 has a NaN gradient.
    """
    log_p, log_q = logits.log_softmax(dim=1), logits_adv.log_softmax(dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
