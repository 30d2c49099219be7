"""Projected gradient ascent in Linf, L2 and L1 balls: the loop for training, and the attack with all its options."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from rp_attacks.attack import ImageAttack, given_start
from rp_attacks.defence import Classifier, OffersReconstructionLoss, query, with_gradient
from rp_attacks.eot import Penalty, Sample, expected_gradient, input_gradient, margins
from rp_attacks.losses import LOSSES, Loss, kl_divergence
from rp_attacks.noise import derive_seed, normal
from rp_attacks.norms import Norm, ascent_step, project, random_start, repaired, size, taken, unit
from rp_attacks.problem import check_choice, check_positive, check_radius, differentiating, without_inference
from rp_attacks.resume import resumable
from rp_attacks.watch import tell

Start = Literal["uniform", "gaussian", "clean", "worst"]


def ascend(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    *,
    norm: Norm = "linf",
    eps: float,
    step_size: float,
    steps: int,
    box_first: bool = False,
) -> Tensor:
    """The last iterate of projected gradient ascent from a given start: the inner loop of adversarial training.

    Only the images are differentiated, so parameters get no gradients; the caller chooses train or eval mode.

    Args:
        objective: images (b, c, h, w) to losses (b,), e.g. `lambda z: kl_divergence(p, model(z))`.
        x: clean images, centres of the balls.
        start: first iterate, like x; used as it is.
        norm: of ball and step.
        eps: radius in units of [0, 1] pixels.
        step_size: length of a step in that norm.
        steps: number of steps.
        box_first: clip to [0, 1] before the projection on the ball (see `norms.project`).

    Returns:
        Images like x, detached. Source: Eq. 2.2 of Madry et al. 2018, arXiv:1706.06083.
    """
    with differentiating():
        x, x_adv = without_inference(x.detach(), start.detach())
        for _ in range(steps):
            leaf = x_adv.detach().requires_grad_()
            grad, _ = repaired(input_gradient(objective(leaf), leaf))
            step = ascent_step(grad, x_adv, norm=norm, step_size=step_size)
            x_adv = project(x_adv + step, x, norm=norm, eps=eps, box_first=box_first)
        return x_adv


@dataclass(frozen=True, kw_only=True, slots=True)
class PGD(ImageAttack):
    """Projected gradient ascent on a loss of the classifier (Madry et al. 2018, arXiv:1706.06083).

    Results depend on (seed, image index) and not on the batch, provided that the model's do not.
    """

    eps: float = 8 / 255  # in units of [0, 1] pixels
    step_size: float = 2 / 255  # length in the attack's norm
    steps: int = 10
    norm: Norm = "linf"
    loss: Loss | Literal["kl"] = "ce"  # "kl": to the clean image's own probabilities, as TRADES does
    # in the ball; "gaussian": x + 0.001 N(0, 1), TRADES' start; "worst": what the attacks before it in an evaluation
    start: Start = "uniform"  # found ("uniform" where there is none)
    restarts: int = 1
    momentum: float = 0.0  # of gradients divided by their L1 norm (Dong et al. 2018, arXiv:1710.06081)
    select: Literal["last", "best"] = "last"  # "best": the iterate with the largest mean margin
    eot: int = 1  # passes averaged in each gradient
    eot_chunk: int = 1  # of them in one batch
    early_stop: bool = False  # an image leaves the batch once every pass misclassifies it
    grad: str = "exact"  # backward rule, of those that the defence offers
    l2_step: Literal["normalised", "sign"] = "normalised"  # "sign" repeats published tables and is a weaker attack
    l1_sparsity: float = 0.05  # share of coordinates in an L1 step
    l1_box: bool = False  # exact projection on the intersection of L1 ball and box
    box_first: bool = False  # order of the projections (see `norms.project`)
    inset: float = 0.0  # gradients are taken this far inside [0, 1], where a clamp has a derivative
    reconstruction_weight: float = 0.0  # beta of loss - beta * L_rec(x'), against a purifier

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_positive(steps=self.steps, restarts=self.restarts, eot=self.eot, eot_chunk=self.eot_chunk)
        if self.eps > 0:
            check_positive(step_size=self.step_size)
        check_choice("loss", self.loss, (*LOSSES, "kl"))
        check_choice("start", self.start, get_args(Start))
        check_choice("select", self.select, ("last", "best"))
        check_choice("l2_step", self.l2_step, ("normalised", "sign"))
        if not 0 < self.l1_sparsity <= 1:
            raise ValueError(f"l1_sparsity must be in (0, 1], got {self.l1_sparsity}")

    @property
    def takes_soft_labels(self) -> bool:
        """Yes, where nothing has to be judged."""
        return True

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        if y.is_floating_point() and (self.judges or self.loss not in ("ce", "kl")):
            raise ValueError(
                "soft labels work with loss 'ce' or 'kl', select='last', restarts=1, early_stop=False only"
            )
        model = with_gradient(model, self.grad)
        best = Best(x)
        for restart in resumable("restarts", self.restarts, best):
            best.offer(slice(None), *self._run(model, x, y, derive_seed(seed, "restart", restart), index))
        return best.images

    @property
    def judges(self) -> bool:
        """Whether iterates are compared, which needs labels and a last query."""
        return self.select == "best" or self.early_stop or self.restarts > 1

    def _run(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One restart: images, their mean margins and shares of wrong passes (zeros where nothing is judged)."""
        look = partial(self._look, model, self._penalty(model))
        target = self._target(model, x, y, seed, index)
        state = _State(self._first(x, seed, index))
        for step in resumable("steps", self.steps, state):
            x_adv, velocity, rows = state.x_adv, state.velocity, state.rows
            sample = look(x_adv[rows], y[rows], target[rows], derive_seed(seed, "step", step), index[rows], step == 0)
            self._tell(step, sample, x_adv[rows], x[rows], index[rows])
            grad = sample.grad
            if self.select == "best":
                state.best.offer(rows, x_adv[rows], sample.margin, sample.wrong)
            if self.early_stop:
                standing = sample.wrong < 1
                state.rows = rows = rows[standing]
                grad = grad[standing]
            if len(rows) == 0:
                break
            if self.momentum:
                velocity[rows] = grad = self.momentum * velocity[rows] + _per_mean(grad)
            x_adv[rows] = self._step(x_adv[rows], x[rows], grad)
        x_adv, best = state.x_adv, state.best
        if not self.judges:
            return x_adv, *x.new_zeros(2, len(x))
        margin, wrong = margins(model, x_adv, y, seed=derive_seed(seed, "last"), index=index, passes=self.eot)
        if self.select == "last":
            return x_adv, margin, wrong
        best.offer(slice(None), x_adv, margin, wrong)
        return best.images, best.score, best.wrong

    def _tell(self, step: int, sample: Sample, x_adv: Tensor, x: Tensor, index: Tensor) -> None:
        tell(
            self, step, index=index, loss=sample.loss, wrong=sample.wrong, gradient=sample.grad,
            distance=lambda: size(x_adv - x, self.norm),
        )  # fmt: skip

    def _look(
        self,
        model: Classifier,
        penalty: Penalty | None,
        x_adv: Tensor,
        y: Tensor,
        target: Tensor,
        seed: int,
        index: Tensor,
        check: bool,
    ) -> Sample:
        """Gradient and margins at one iterate."""
        return expected_gradient(
            model,
            x_adv.clamp(self.inset, 1 - self.inset),
            y,
            _kl if self.loss == "kl" else LOSSES[self.loss],
            seed=seed,
            index=index,
            target=target,
            passes=self.eot,
            chunk=self.eot_chunk,
            penalty=penalty,
            check=check,
        )

    def _step(self, x_adv: Tensor, x: Tensor, grad: Tensor) -> Tensor:
        norm: Norm = "linf" if self.norm == "l2" and self.l2_step == "sign" else self.norm
        step = ascent_step(grad, x_adv, norm=norm, step_size=self.step_size, sparsity=self.l1_sparsity)
        return project(x_adv + step, x, norm=self.norm, eps=self.eps, box_first=self.box_first, l1_box=self.l1_box)

    def _first(self, x: Tensor, seed: int, index: Tensor) -> Tensor:
        if self.start == "clean":
            return x.clone()
        if self.start == "gaussian":
            draw = normal(x.shape[1:], seed=seed, purpose="start", index=index, like=x)
            return project(x + 0.001 * draw, x, norm=self.norm, eps=self.eps)
        if self.start == "worst" and (given := given_start(x)) is not None:
            return given.clone()
        return random_start(x, norm=self.norm, eps=self.eps, seed=seed, index=index)

    def _target(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """What the loss compares with: the labels, or for "kl" the clean image's probabilities."""
        if self.loss != "kl":
            return y
        with torch.no_grad():
            return query(model, x, seed=derive_seed(seed, "clean"), index=index).softmax(dim=1)

    def _penalty(self, model: Classifier) -> Penalty | None:
        if not self.reconstruction_weight:
            return None
        if not isinstance(model, OffersReconstructionLoss):
            raise ValueError(
                "reconstruction_weight needs a defence that offers `reconstruction_loss(x, seed=, index=)`; "
                "this model does not, so set it to 0"
            )
        return partial(_weighted_reconstruction, model, self.reconstruction_weight)


class _State:
    """What a step needs of the steps before it."""

    def __init__(self, first: Tensor) -> None:
        self.x_adv, self.best, self.velocity = first, Best(first), torch.zeros_like(first)
        self.rows = torch.arange(len(first), device=first.device)  # still attacked


class Best:
    """The best images seen so far, their scores and shares of wrong passes, row by row."""

    def __init__(self, x: Tensor) -> None:
        self.images = x.clone()
        self.score, self.wrong = x.new_full((len(x),), float("-inf")), x.new_zeros(len(x))

    def offer(self, rows: Tensor | slice, images: Tensor, score: Tensor, wrong: Tensor) -> None:
        """Take over the given rows where the new score is higher, or equal with more wrong passes."""
        better = (score > self.score[rows]) | ((score == self.score[rows]) & (wrong > self.wrong[rows]))
        self.score[rows] = torch.where(better, score, self.score[rows])
        self.wrong[rows] = torch.where(better, wrong, self.wrong[rows])
        self.images[rows] = taken(better, images, self.images[rows])


def _kl(logits: Tensor, probabilities: Tensor) -> Tensor:
    return kl_divergence(probabilities, logits)


def _weighted_reconstruction(
    model: OffersReconstructionLoss, weight: float, x: Tensor, seed: int, index: Tensor
) -> Tensor:
    return weight * model.reconstruction_loss(x, seed=seed, index=index)


def _per_mean(grad: Tensor) -> Tensor:
    """Each gradient divided by its mean magnitude."""
    return unit(grad, "l1") * grad[0].numel()
