"""IKL: the KL divergence taken apart into a weighted squared error and a soft cross-entropy, and improved.

Sources: Cui et al. 2024, arXiv:2305.13948 (IKL, version 1); Cui et al. 2025, arXiv:2503.08038 (GKL, version 2).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from rp_attacks.problem import check_choice, check_positive
from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra import global_batch
from rp_dra.objectives.inner import Ball, check_attack, check_loss, near_start, raise_divergence
from rp_dra.objectives.objective import Noise, Objective, Outcome
from rp_dra.objectives.passes import classify, classify_both, eval_mode, two_part_metrics


def weighted_mse(logits: Tensor, logits_adv: Tensor, weights: Tensor, *, by_weight: bool) -> Tensor:
    """The squared error between all differences of two logits, natural against adversarial, weighted by class pair.

    With d = z - z' and pair weights w_j w_k it is 1/4 sum_ijk w_ij w_ik (d_ij - d_ik)^2 over the normaliser. For each
    image the double sum equals 2 W sum_j w_j (d_j - mean)^2, where W = sum_j w_j and the mean is weighted: O(b k)
    time and memory, and never negative.

    Args:
        logits: natural, z, (b, k); gradient flows here too.
        logits_adv: adversarial, z', (b, k).
        weights: w, (b, k), not negative, with a positive sum in each row; held fixed.
        by_weight: divide by the sum of all pair weights (version 2), which is taken over the images of all processes
            where there are several; otherwise by the number of images (version 1).

    Returns:
        Scalar; its mean over the processes is that of one process with all images.
    """
    d, weights = logits - logits_adv, weights.detach()
    total = weights.sum(dim=1, keepdim=True)
    mean = (weights * d).sum(dim=1, keepdim=True) / total
    pairs = 0.5 * (total * weights * (d - mean).square()).sum()
    return pairs / (global_batch.mean(total.square().sum()) if by_weight else len(logits))


def ikl_loss(
    logits: Tensor,
    logits_adv: Tensor,
    prior: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float = 1.0,
    temperature: float = 1.0,
    version: Literal[1, 2] = 2,
) -> Tensor:
    """What stands for TRADES' KL term: beta * wMSE + alpha * SCE.

    wMSE is `weighted_mse` with the weights prior^gamma; its gradient reaches both logits. SCE is the cross-entropy of
    the adversarial prediction with the natural one, which is held fixed.

    Args:
        prior: for each image the mean prediction on its class, (b, k), rows summing to 1.
        alpha: weight of SCE.
        beta: weight of wMSE.
        gamma: exponent of the prior.
        temperature: of both predictions in SCE.
        version: how wMSE is normalised, see `weighted_mse`.

    Returns:
        Scalar. Source: Cui et al. 2024, arXiv:2305.13948; Cui et al. 2025, arXiv:2503.08038; their published code.
    """
    if not logits.shape == logits_adv.shape == prior.shape:
        shapes = [tuple(tensor.shape) for tensor in (logits, logits_adv, prior)]
        raise ValueError(f"logits, logits_adv and prior must all be (b, k), got {', '.join(map(str, shapes))}")
    wmse = weighted_mse(logits, logits_adv, prior.pow(gamma), by_weight=version == 2)
    sce = F.cross_entropy(logits_adv / temperature, (logits.detach() / temperature).softmax(dim=1))
    return beta * wmse + alpha * sce


class ClassMeans(nn.Module):
    """The mean prediction on each class, collected over an epoch and used in the next."""

    prior: Tensor  # (k, k), row y is the mean prediction on class y over the last epoch; uniform at first
    sums: Tensor  # (k, k), the predictions of this epoch added up by class

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("prior", torch.full((num_classes, num_classes), 1.0 / num_classes))
        self.register_buffer("sums", torch.zeros(num_classes, num_classes))

    @torch.no_grad()
    def collect_(self, probabilities: Tensor, y: Tensor) -> None:
        """Add predictions (b, k) to the rows of their labels y (b,), of all processes where there are several."""
        members = y[:, None] == torch.arange(len(self.sums), device=y.device)  # b k
        # a product and not index_add_, whose order of summation a GPU does not keep; in full precision
        with torch.autocast(y.device.type, enabled=False):
            sums = members.to(self.sums.dtype).mT @ probabilities.to(self.sums.dtype)
        self.sums += global_batch.total(sums)

    @torch.no_grad()
    def close_epoch_(self) -> None:
        """Make the means of what was collected, and begin anew; a class that was not seen keeps its row."""
        total = self.sums.sum(dim=1, keepdim=True)
        self.prior.copy_(torch.where(total > 0, self.sums / total, self.prior))
        self.sums.zero_()


@dataclass(kw_only=True, eq=False)
class Ikl(Objective):
    """Adversarial training with IKL: CE(z, y) + beta * wMSE + alpha * SCE.

    The attack runs in eval mode from x + 0.001 N(0, 1) and raises SCE, whose gradient is that of the KL divergence.
    The radius grows linearly to `eps` over the epochs, and each step is `step_share` of the present radius: the
    published "low" budget is 2 steps of the whole radius, "high" is 5 steps of half of it. Then adversarial and natural
    images go through the model in two train-mode passes, in this order. The weights of wMSE come from the mean
    prediction on each class over the last epoch, at `temperature`.

    The published runs add adversarial weight perturbation, gamma 0.005 from the tenth epoch on: see `Awp`.

    Attributes:
        gamma: exponent of the class means, in version 2. Published: 1 with temperature 4, or, with temperature 1,
            0.2 on CIFAR-10 and 0.4 on CIFAR-100.
        joint_forward: natural and adversarial images in one pass; see `classify_both` for what batch norms make of it.

    Source: Cui et al. 2024, arXiv:2305.13948; Cui et al. 2025, arXiv:2503.08038; their published code.
    """

    num_classes: int  # k
    version: Literal[1, 2] = 2  # 1 for IKL, 2 for GKL; see `weighted_mse`
    alpha: float = 4.0  # weight of SCE
    beta: float = 20.0  # weight of wMSE
    gamma: float = 1.0
    temperature: float = 4.0  # of the predictions that the class means collect; SCE itself is at temperature 1
    label_smoothing: float = 0.0  # of the natural cross-entropy; published: none
    eps: float = 8 / 255  # largest radius, in [0, 1] pixel units
    steps: int = 2  # of the attack
    step_share: float = 1.0  # length of a step over the present radius; the published L2 attack takes 2 / steps
    norm: Ball = "linf"  # of ball and step
    grow: bool = True  # whether the radius grows, from eps / epochs in the first epoch to eps in the last
    joint_forward: bool = False
    means: ClassMeans = field(init=False, repr=False)  # the class means
    radius: float = field(init=False, repr=False)  # of this epoch; set by `begin_step`

    def __post_init__(self) -> None:
        check_attack(self.norm, self.eps, self.step_share, self.steps)
        check_loss(self.beta, self.label_smoothing)
        if not self.alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")
        check_positive(num_classes=self.num_classes, temperature=self.temperature, gamma=self.gamma)
        check_choice("version", str(self.version), ("1", "2"))
        if self.version == 1 and self.gamma != 1:
            raise ValueError(f"version 1 of IKL has no gamma, got {self.gamma}; set version=2")
        self.means, self.radius = ClassMeans(self.num_classes), self.eps

    @property
    def noise(self) -> Noise:
        """Normal, in both norms."""
        return "normal"

    @property
    def additive(self) -> bool:
        """Not in version 2, which normalises over the batch."""
        return self.version == 1

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The class means."""
        return {"class_means": self.means.to(next(model.parameters()).device)}

    def begin_step(self, model: nn.Module, *, step: int, steps_per_epoch: int, epochs: int) -> None:
        """Set this epoch's radius; at the start of an epoch, close the class means of the one before."""
        del model
        epoch, position = divmod(step, steps_per_epoch)
        self.radius = self.eps * (epoch + 1) / epochs if self.grow else self.eps
        if epoch > 0 and position == 0:
            self.means.close_epoch_()

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Tensor:
        """See `Objective`."""
        del y
        start, step_size = near_start(x, start_noise), self.step_share * self.radius
        with eval_mode(model):
            return raise_divergence(
                model, x, start, norm=self.norm, eps=self.radius, step_size=step_size, steps=self.steps
            )

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """See `Objective`; labels must be hard ones, which choose the rows of the class means."""
        if y.is_floating_point():
            raise TypeError("IKL looks up a class mean for each label, so y must be int64 labels, got probabilities")
        features_nat, logits, features, logits_adv = self._classify(model, x, x_adv)
        prior = self.means.prior[y]
        if not trial:
            self.means.collect_((logits.detach() / self.temperature).softmax(dim=1), y)
        natural = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        robust = ikl_loss(
            logits, logits_adv, prior, alpha=self.alpha, beta=self.beta, gamma=self.gamma, version=self.version
        )
        metrics = two_part_metrics(natural, robust, logits, logits_adv, y)
        return Outcome(natural + robust, features, x_adv, metrics, features_nat)

    def _classify(self, model: nn.Module, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `classify_both`, but the running statistics move last to the natural images."""
        if self.joint_forward:
            return classify_both(model, x, x_adv, joint=True)
        features, logits_adv = classify(model, x_adv)
        return *classify(model, x), features, logits_adv
