"""Selective attack on random defences: of many draws of the noise, follow those whose gradients agree.

The gradients of a purifier's draws point in different directions, and their mean follows none. DiffHammer weighs the
draws by how likely the step breaks them too (one round of expectation and maximisation), and pulls the weighted
gradient back through the purifier once, by grafting, in place of once for each draw.

Source: DiffHammer, NeurIPS 2024, as its published code does it (Ka1b0/DiffHammer, 1010822).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rp_attacks.apgd import APGD, HalvingRule, State
from rp_attacks.attack import ImageAttack
from rp_attacks.defence import COPY_STRIDE, Classifier, OffersPurification, count_query, query, with_gradient
from rp_attacks.eot import Objective, Sample, input_gradient
from rp_attacks.losses import LOSSES, Loss, misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, repaired, size, unit
from rp_attacks.problem import check_choice, check_logits, check_positive, check_radius
from rp_attacks.resume import resumable
from rp_attacks.watch import tell

_LARGEST = 1e7  # entry of a gradient that is pulled back


def select_draws(loss: Tensor, grads: Tensor, *, count: int, eps: float, norm: Norm = "linf") -> Tensor:
    """The draws whose step raises the losses of all draws most.

    Args:
        loss: (N, b), positive where a draw is wrong.
        grads: (N, b, d), gradients of the losses at the purified images.
        count: K, how many are selected.
        eps: radius, by which a step is long.
        norm: "linf" or "l2", of the step.

    Returns:
        int64 (K, b), the best first: those of largest sum over j of elu(l_j + eps <u(g_i), g_j>), u being the
        sign or the unit vector.
    """
    reach = torch.einsum("ibd,jbd->ijb", _direction(grads, norm), grads)
    return F.elu(loss[None] + eps * reach).sum(dim=1).topk(count, dim=0).indices


def graft(
    loss: Tensor, grads: Tensor, selected: Tensor, *, sharpness: float = 5.0, em_steps: int = 1, norm: Norm = "linf"
) -> Tensor:
    """The gradient to be pulled back through each selected draw, a mean over all draws.

    Draw j weighs sigmoid(sharpness (l_j + <u(r), g_j>)), with r the gradient of the best draw, times the softmax over
    the selected draws k of cos(g_j, g_k).

    Args:
        loss: (N, b).
        grads: (N, b, d).
        selected: int64 (K, b), of `select_draws`.
        sharpness: lambda.
        em_steps: rounds of weights and weighted mean r; the published code never uses its new r, so that it makes one.
        norm: of the step.

    Returns:
        (K, b, d).
    """
    chosen = grads.gather(0, selected[..., None].expand(-1, -1, grads.shape[2]))
    best = chosen[0]
    for _ in range(em_steps):
        weight = torch.sigmoid(sharpness * (loss + (_direction(best, norm)[None] * grads).sum(dim=2)))
        best = (weight[..., None] * grads).sum(dim=0) / weight.sum(dim=0)[:, None].clamp_min(_tiny(weight))
    share = F.cosine_similarity(grads[:, None], chosen[None], dim=3).softmax(dim=1) * weight[:, None]
    return (share[..., None] * grads[:, None]).sum(dim=0) / share.sum(dim=0)[..., None].clamp_min(_tiny(share))


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffHammer(ImageAttack):
    """Selective attack with grafting on a random purifier; on other random defences the same without grafting.

    Each step draws `draws` noises. With a defence that offers its `purifier` and its `classifier` the gradients are
    those of the classifier at the purified images, and only the selected draws go back through the purifier.
    """

    eps: float = 8 / 255  # in units of [0, 1] pixels
    norm: Norm = "linf"
    steps: int = 50
    restarts: int = 3  # with the losses in turn; later ones on images that at most half of the draws misclassify
    losses: tuple[Loss, ...] = ("cw", "ce", "dlr")
    draws: int = 10  # N
    eot: int = 1  # K, draws that are followed
    sharpness: float = 5.0
    em_steps: int = 1
    start: Literal["random", "clean", "worst"] = "random"  # see `APGD`
    rho: float = 0.75
    grad: str = "exact"  # backward rule of the purifier, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_choice("norm", self.norm, ("linf", "l2"))
        check_positive(steps=self.steps, restarts=self.restarts, draws=self.draws, eot=self.eot, em_steps=self.em_steps)
        if not self.losses or self.eot > self.draws:
            raise ValueError(f"expected a loss and eot <= draws, got losses {self.losses}, {self.eot} of {self.draws}")
        for loss in self.losses:
            check_choice("losses", loss, tuple(LOSSES))

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        model, kept = with_gradient(model, self.grad), _Kept(x)
        for restart in resumable("restarts", self.restarts, kept):
            rows = (kept.wrong <= 0.5).nonzero().flatten()
            if len(rows) == 0:
                break
            loss = self.losses[restart % len(self.losses)]
            made = self._run(model, x[rows], y[rows], loss, derive_seed(seed, "restart", restart), index[rows])
            kept.offer(rows, *made)
        return kept.images

    def _run(
        self, model: Classifier, x: Tensor, y: Tensor, loss: Loss, seed: int, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One restart: images, shares of wrong draws, and mean losses."""
        look = partial(self._look, model, y=y, objective=LOSSES[loss], index=index)
        setting = APGD(eps=self.eps, norm=self.norm, steps=self.steps, start=self.start, rho=self.rho)
        first = setting.first(x, seed, index)
        sample = look(first, seed=derive_seed(seed, "step", 0), check=True)
        run = _Run(State(first, sample), HalvingRule(x, setting), _Kept(x))
        run.kept.offer(slice(None), first, sample.wrong, sample.margin)
        self._tell(0, sample, first - x, index)
        for step in resumable("steps", self.steps, run):
            state = run.state
            moved = run.rule.move(state, x, first=step == 0)
            state.previous, state.x_adv = state.x_adv, moved
            sample = look(moved, seed=derive_seed(seed, "step", step + 1))
            inertia = 1 - (step + 2) ** -0.5
            state.see(sample._replace(grad=(1 - inertia) * sample.grad + inertia * state.grad))
            run.kept.offer(slice(None), moved, sample.wrong, sample.margin)
            self._tell(step + 1, sample, moved - x, index)
            run.rule.adapt(state, x)
        return run.kept.images, run.kept.wrong, run.kept.loss

    def _tell(self, step: int, sample: Sample, delta: Tensor, index: Tensor) -> None:
        tell(
            self, step, index=index, loss=sample.loss, wrong=sample.wrong, gradient=sample.grad,
            distance=partial(size, delta, self.norm),
        )  # fmt: skip

    def _look(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        objective: Objective,
        seed: int,
        index: Tensor,
        check: bool = False,
    ) -> Sample:
        """The grafted gradient, the draws' largest loss, their mean loss (as `margin`) and the share of wrong ones."""
        losses, grads, wrong = [], [], []
        for draw in range(self.draws):
            rows = index + draw * COPY_STRIDE
            logits, leaf = _answer(model, x, seed, rows)
            if check:
                check_logits(logits, y)
            loss = objective(logits, y)
            counted = None if isinstance(model, OffersPurification) else rows  # else only what is grafted goes back
            grads.append(repaired(input_gradient(loss, leaf, index=counted))[0].flatten(1))
            losses.append(loss.detach())
            wrong.append(misclassified(logits.detach(), y).to(x))
        loss, grad = torch.stack(losses), torch.stack(grads)
        selected = select_draws(loss, grad, count=self.eot, eps=self.eps, norm=self.norm)
        upstream = graft(loss, grad, selected, sharpness=self.sharpness, em_steps=self.em_steps, norm=self.norm)
        total = torch.zeros_like(x)
        for chosen, back in zip(selected, upstream.clamp(-_LARGEST, _LARGEST), strict=True):
            total += _pulled_back(model, x, back.reshape(x.shape), seed, index + chosen * COPY_STRIDE) / self.eot
        share, mean = torch.stack(wrong).mean(dim=0), loss.mean(dim=0)
        return Sample(total, loss.amax(dim=0), mean, share, torch.zeros_like(mean))


def _answer(model: Classifier, x: Tensor, seed: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of one draw, and the images in which they are differentiated: the purified ones where they are offered."""
    if not isinstance(model, OffersPurification):
        leaf = x.detach().requires_grad_()
        return query(model, leaf, seed=seed, index=rows), leaf
    with torch.no_grad():
        purified = model.purifier(x, seed=seed, index=rows)
    count_query(rows)
    leaf = purified.detach().requires_grad_()
    return model.classifier(leaf).float(), leaf


def _pulled_back(model: Classifier, x: Tensor, upstream: Tensor, seed: int, rows: Tensor) -> Tensor:
    """A gradient at the purified images as one in the images, by the noise of the same draws."""
    if not isinstance(model, OffersPurification):
        return upstream
    leaf = x.detach().requires_grad_()
    purified = model.purifier(leaf, seed=seed, index=rows)
    count_query(rows)
    return repaired(input_gradient(purified, leaf, upstream=upstream, index=rows))[0]


class _Kept:
    """The images that most draws misclassify, and of those the ones of largest mean loss."""

    def __init__(self, x: Tensor) -> None:
        self.images, self.wrong = x.clone(), x.new_full((len(x),), -1.0)
        self.loss = x.new_full((len(x),), float("-inf"))

    def offer(self, rows: Tensor | slice, images: Tensor, wrong: Tensor, loss: Tensor) -> None:
        """Take over the images that do worse for the defence."""
        better = (wrong > self.wrong[rows]) | ((wrong == self.wrong[rows]) & (loss > self.loss[rows]))
        self.images[rows] = torch.where(better[:, None, None, None], images, self.images[rows])
        self.wrong[rows] = torch.where(better, wrong, self.wrong[rows])
        self.loss[rows] = torch.where(better, loss, self.loss[rows])


class _Run:
    """What a step needs of the steps before it."""

    def __init__(self, state: State, rule: HalvingRule, kept: _Kept) -> None:
        self.state, self.rule, self.kept = state, rule, kept


def _direction(grads: Tensor, norm: Norm) -> Tensor:
    """Signs, or unit vectors along the last axis."""
    return grads.sign() if norm == "linf" else unit(grads.flatten(0, -2), "l2").reshape(grads.shape)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
