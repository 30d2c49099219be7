"""Auto-PGD: ascent with momentum whose step length adapts to each image, here sound on random defences too."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rp_attacks import noise
from rp_attacks.attack import ImageAttack, given_start
from rp_attacks.defence import Classifier, query, with_gradient
from rp_attacks.eot import Sample, expected_gradient, input_gradient
from rp_attacks.losses import LOSSES, targeted_dlr
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, project, project_l1_in_box, repaired, size, taken, unit
from rp_attacks.problem import check_choice, check_logits, check_positive, check_radius
from rp_attacks.resume import resumable
from rp_attacks.watch import tell

_DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
_MALT_CLASSES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class APGD(ImageAttack):
    """Auto-PGD (Croce & Hein 2020, arXiv:2003.01690; for L1 2021, arXiv:2103.01208).

    On a deterministic model its iterates are those of the reference. On a random one the loss that steers it and the
    success that is kept are averages over the `eot` passes, where the reference takes the last pass alone.
    """

    eps: float = 8 / 255  # in units of [0, 1] pixels
    norm: Norm = "linf"
    steps: int = 100
    loss: Literal["ce", "dlr", "cw", "targeted-dlr"] = "ce"
    targets: int = 9  # wrong classes tried one by one under "targeted-dlr"
    # of them: "malt" takes those first whose boundary is nearest by the logits' slopes (arXiv:2407.02240)
    order: Literal["likeliest", "malt"] = "likeliest"
    restarts: int = 1
    # "random": on the sphere; "worst": what the attacks before it in an evaluation found ("random" where there is none)
    start: Literal["random", "clean", "worst"] = "random"
    rho: float = 0.75  # a step is halved where fewer than this share of steps raised the loss
    eot: int = 1  # passes averaged in each gradient
    eot_chunk: int = 1  # of them in one batch
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_choice("loss", self.loss, (*LOSSES, "targeted-dlr"))
        check_choice("order", self.order, ("likeliest", "malt"))
        check_choice("start", self.start, ("random", "clean", "worst"))
        check_positive(steps=self.steps, restarts=self.restarts, eot=self.eot, targets=self.targets)

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """The iterate that most passes misclassify, and of those the one of largest loss."""
        model = with_gradient(model, self.grad)
        result = _Result(x)
        order = self._ranked_classes(model, x, y, seed, index)
        ranks = [rank for rank in range(order.shape[1]) for _ in range(self.restarts)]
        for number in resumable("runs", len(ranks), result):
            rows, rank = (result.wrong < 1).nonzero().flatten(), ranks[number]
            if len(rows) == 0:
                break
            run_seed = derive_seed(seed, "run", number)
            state = self._run(model, x[rows], y[rows], order[rows, rank], run_seed, index[rows])
            better = state.worst_wrong > result.wrong[rows]
            result.images[rows] = taken(better, state.worst, result.images[rows])
            result.wrong[rows] = torch.where(better, state.worst_wrong, result.wrong[rows])
        return result.images

    def _ranked_classes(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """Targets (b, t), from the second likeliest class on; one column of no meaning for untargeted losses."""
        if self.loss != "targeted-dlr":
            return torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        with torch.no_grad():
            logits = query(model, x, seed=derive_seed(seed, "ranking"), index=index)
        check_logits(logits, y)
        ranked = logits.argsort(dim=1, descending=True)[:, 1:]
        if self.order == "malt":
            ranked = self._nearest_first(model, x, y, logits, derive_seed(seed, "ranking"), index)
        return ranked[:, : self.targets]

    def _nearest_first(
        self, model: Classifier, x: Tensor, y: Tensor, logits: Tensor, seed: int, index: Tensor
    ) -> Tensor:
        """Wrong classes by the gap of their logits to the true one over the size of the gap's gradient.

        Of the 100 likeliest ones; the size is in the norm dual to the ball's. One backward pass for each, once.
        """
        others = logits.scatter(1, y[:, None], float("-inf")).argsort(dim=1, descending=True)
        others = others[:, : min(_MALT_CLASSES, logits.shape[1] - 1)]
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            again = query(model, leaf, seed=seed, index=index)
            gaps = again.gather(1, y[:, None]) - again.gather(1, others)
        slopes = []
        for column in range(others.shape[1]):
            keep = column + 1 < others.shape[1]
            grad, _ = repaired(input_gradient(gaps[:, column], leaf, keep_graph=keep, index=index))
            slopes.append(torch.linalg.vector_norm(grad.flatten(1), ord=_DUAL[self.norm], dim=1))
        distance = gaps.detach() / torch.stack(slopes, dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        return others.gather(1, distance.argsort(dim=1))

    def _run(self, model: Classifier, x: Tensor, y: Tensor, target: Tensor, seed: int, index: Tensor) -> "State":
        # the objective takes both labels, stacked; the margins take the true one
        labels = torch.stack([y, target], dim=1)
        objective = partial(_objective, self.loss)
        look = partial(
            expected_gradient, model, y=y, objective=objective, index=index, target=labels, passes=self.eot,
            chunk=self.eot_chunk,
        )  # fmt: skip
        x_adv = self.first(x, seed, index)
        state = State(x_adv, look(x_adv, seed=derive_seed(seed, "step", 0), check=True))
        rule = _SparseRule(x, self) if self.norm == "l1" else HalvingRule(x, self)
        self._tell(0, state, x, index)
        both = _Both(state, rule)
        for step in resumable("steps", self.steps, both):
            moved = rule.move(state, x, first=step == 0)
            state.previous, state.x_adv = state.x_adv, moved
            state.see(look(moved, seed=derive_seed(seed, "step", step + 1)))
            self._tell(step + 1, state, x, index)
            rule.adapt(state, x)
        return state

    def _tell(self, step: int, state: "State", x: Tensor, index: Tensor) -> None:
        tell(
            self, step, index=index, loss=state.loss, wrong=state.wrong, gradient=state.grad,
            distance=lambda: size(state.x_adv - x, self.norm),
        )  # fmt: skip

    def first(self, x: Tensor, seed: int, index: Tensor) -> Tensor:
        """Where the attack begins."""
        if self.start == "clean":
            return x.clone()
        if self.start == "worst" and (given := given_start(x)) is not None:
            return given.clone()
        if self.norm == "linf":
            draw = 2 * noise.uniform(x.shape[1:], seed=seed, purpose="start", index=index, like=x) - 1
        else:
            draw = noise.normal(x.shape[1:], seed=seed, purpose="start", index=index, like=x)
        if self.norm == "l1":
            return x + project_l1_in_box(draw, x, self.eps)
        return (x + self.eps * unit(draw, self.norm)).clamp(0, 1)


class _Result:
    """The images of the runs so far, and the share of passes that misclassify each."""

    def __init__(self, x: Tensor) -> None:
        self.images, self.wrong = x.clone(), x.new_full((len(x),), -1.0)


class State:
    """Where each image is: current, previous and best point, and what was seen there."""

    def __init__(self, x_adv: Tensor, sample: Sample) -> None:
        self.x_adv = self.previous = x_adv
        self.best, self.best_grad, self.best_loss = x_adv.clone(), sample.grad.clone(), sample.loss.clone()
        self.worst, self.worst_wrong, self.worst_loss = x_adv.clone(), sample.wrong.clone(), sample.loss.clone()
        self.grad, self.loss, self.wrong = sample.grad, sample.loss, sample.wrong

    def see(self, sample: Sample) -> None:
        """Note the loss, gradient and success at the current point."""
        self.grad, self.loss, self.wrong = sample.grad, sample.loss, sample.wrong
        higher = sample.loss > self.best_loss
        self.best = taken(higher, self.x_adv, self.best)
        self.best_grad = taken(higher, sample.grad, self.best_grad)
        self.best_loss = torch.where(higher, sample.loss, self.best_loss)
        tie = (sample.wrong == self.worst_wrong) & (sample.loss > self.worst_loss)
        worse = (sample.wrong > self.worst_wrong) | tie
        self.worst = taken(worse, self.x_adv, self.worst)
        self.worst_wrong = torch.where(worse, sample.wrong, self.worst_wrong)
        self.worst_loss = torch.where(worse, sample.loss, self.worst_loss)

    def back_to_best(self, rows: Tensor) -> None:
        """Go on from the best point in the given rows."""
        self.x_adv, self.grad = taken(rows, self.best, self.x_adv), taken(rows, self.best_grad, self.grad)


class _Both:
    """State and rule, as one thing to be resumed."""

    def __init__(self, state: State, rule: "HalvingRule | _SparseRule") -> None:
        self.state, self.rule = state, rule


class HalvingRule:
    """Linf and L2: momentum, and steps halved at checkpoints where the loss stopped rising (Alg. 1 of the paper)."""

    def __init__(self, x: Tensor, attack: APGD) -> None:
        self.norm, self.eps, self.rho = attack.norm, attack.eps, attack.rho
        self.step = x.new_full((len(x), 1, 1, 1), 2 * attack.eps)
        self.window = max(int(0.22 * attack.steps), 1)
        self.shrink, self.least = max(int(0.03 * attack.steps), 1), max(int(0.06 * attack.steps), 1)
        self.waited = 0
        self.rises = x.new_zeros(len(x))
        # the reference compares the first loss with 0, not with the loss at the start; kept for equal iterates
        self.last_loss = x.new_zeros(len(x))
        self.checked_loss: Tensor | None = None
        self.halved = torch.ones(len(x), dtype=torch.bool, device=x.device)

    def move(self, state: State, x: Tensor, *, first: bool) -> Tensor:
        """One step with momentum: 3/4 of the projected gradient step and 1/4 of the last move."""
        if self.checked_loss is None:
            self.checked_loss = state.best_loss
        direction = state.grad.sign() if self.norm == "linf" else unit(state.grad, "l2")
        plain = project(state.x_adv + self.step * direction, x, norm=self.norm, eps=self.eps)
        a = 1.0 if first else 0.75
        inertia = state.x_adv - state.previous
        moved = state.x_adv + (plain - state.x_adv) * a + inertia * (1 - a)
        return project(moved, x, norm=self.norm, eps=self.eps)

    def adapt(self, state: State, x: Tensor) -> None:
        """Count rises; at a checkpoint halve the steps that do not pay, and go back to the best point there."""
        self.rises += state.loss > self.last_loss
        self.last_loss = state.loss
        self.waited += 1
        if self.waited < self.window:
            return
        assert self.checked_loss is not None
        stuck = ~self.halved & (self.checked_loss >= state.best_loss)
        halve = (self.rises <= self.window * self.rho) | stuck
        self.step = taken(halve, self.step / 2, self.step)
        state.back_to_best(halve)
        self.halved, self.checked_loss = halve, state.best_loss
        self.rises = torch.zeros_like(self.rises)
        self.window, self.waited = max(self.window - self.shrink, self.least), 0


class _SparseRule:
    """L1: sparse steps whose number of coordinates follows the sparsity of the best point."""

    def __init__(self, x: Tensor, attack: APGD) -> None:
        self.eps, self.count = attack.eps, x[0].numel()
        self.step = x.new_full((len(x), 1, 1, 1), attack.eps)
        self.window, self.waited = max(int(0.04 * attack.steps), 1), 0
        self.random_start = attack.start != "clean"
        self.share = x.new_full((len(x),), 0.2)
        self.support = x.new_full((len(x),), float(self.count))

    def move(self, state: State, x: Tensor, *, first: bool) -> Tensor:
        """One step along the signs of the largest coordinates, projected on ball and box together."""
        if first and not self.random_start:
            self._start_from(_support(state.x_adv, x))
        flat = state.grad.flatten(1)
        place = ((1 - self.share) * self.count).clamp(0, self.count - 1).long()
        threshold = flat.abs().sort(dim=1).values.gather(1, place[:, None])
        signs = torch.where(flat.abs() >= threshold, flat.sign(), 0.0)
        direction = (signs / (signs.abs().sum(dim=1, keepdim=True) + 1e-10)).reshape(x.shape)
        return (x + project_l1_in_box(state.x_adv + self.step * direction - x, x, self.eps)).clamp(0, 1)

    def _start_from(self, support: Tensor) -> None:
        """Take over the sparsity of a given start; the clean image has none to follow."""
        given = support > 0
        self.share = torch.where(given, support / self.count / 1.5, self.share)
        self.support = torch.where(given, support, self.support)

    def adapt(self, state: State, x: Tensor) -> None:
        """At a checkpoint follow the best point's sparsity; step long where it grew sparser, shorter elsewhere."""
        self.waited += 1
        if self.waited < self.window:
            return
        support = _support(state.best, x)
        sparser = support / self.support < 0.95
        self.share = support / self.count / 1.5
        shorter = (self.step / 1.5).clamp(self.eps / 10, self.eps)
        self.step = taken(sparser, torch.full_like(self.step, self.eps), shorter)
        self.support, self.waited = support.clamp_min(1), 0
        state.back_to_best(sparser)


def _objective(loss: str, logits: Tensor, labels: Tensor) -> Tensor:
    y, target = labels.unbind(dim=1)
    return targeted_dlr(logits, y, target) if loss == "targeted-dlr" else LOSSES[loss](logits, y)


def _support(x_adv: Tensor, x: Tensor) -> Tensor:
    """Number of changed coordinates of each image."""
    return (x_adv != x).flatten(1).sum(dim=1).to(x.dtype)
