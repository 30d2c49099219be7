"""Expectation over a defence's noise (EOT), in its two different meanings.

`expected_gradient` averages the gradient of the LOSS over passes: the true ascent direction against a random defence,
at constant memory. `MeanLogits` averages LOGITS: another and stronger classifier, useful to give library attacks a
stable boundary, and never to be reported as the accuracy of a single query. Do not nest them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rp_attacks.defence import COPY_STRIDE, Classifier, OffersGradients, Randomised, query, with_gradient
from rp_attacks.losses import cw_margin, misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.norms import repaired
from rp_attacks.problem import check_logits, differentiating, without_inference
from rp_attacks.watch import count_passes, uncounted

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits, target) -> one loss per image."""
Penalty = Callable[[Tensor, int, Tensor], Tensor]
"""(images, seed, index) -> one number per image, subtracted from the loss."""


class Sample(NamedTuple):
    """What some passes say about each image."""

    grad: Tensor
    """Mean gradient of the loss, like x; finite (see `norms.repaired`)."""
    loss: Tensor
    """Mean loss, (b,)."""
    margin: Tensor
    """Mean margin (largest wrong logit minus true), (b,); zeros for soft labels."""
    wrong: Tensor
    """Share of passes that misclassify, (b,); zeros for soft labels."""
    broken: Tensor
    """Share of the gradient's entries that were NaN or infinite, (b,)."""


class NoGradientError(ValueError):
    """The model's answer cannot be differentiated in the images, so that a gradient attack cannot run at all."""


def expected_gradient(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    objective: Objective,
    *,
    seed: int,
    index: Tensor,
    target: Tensor | None = None,
    passes: int = 1,
    chunk: int = 1,
    penalty: Penalty | None = None,
    check: bool = False,
) -> Sample:
    """Mean gradient of the loss over passes with fresh noise; the graph of one chunk at a time is kept.

    Parameters get no gradients: only the images are differentiated.

    Args:
        model: classifier or defence.
        x: images (b, c, h, w) where the gradient is taken.
        y: labels, of which margins are reckoned; floating ones give none.
        objective: (logits, target) to per-image losses.
        seed: pass s is copy s of the image (see `defence.COPY_STRIDE`) under a seed drawn from this one.
        index: int64 (b,), image indices.
        target: what the objective compares the logits with; by default y.
        passes: number of passes M.
        chunk: passes made in one batch of chunk * b images; larger is faster for small b and takes more memory. Where
            a device runs out of it, fewer are made, here and in later calls; the result is the same.
        penalty: subtracted from the loss, e.g. a reconstruction loss.
        check: refuse logits that are not finite or too few for the labels, and images whose gradient is nowhere a
            number (waits for the device).

    Returns:
        The averages over the passes. Source: Eq. 1 of Athalye et al. 2018, arXiv:1707.07397.

    Raises:
        NoGradientError: there is no way from the loss back to the images.
    """
    target = y if target is None else target
    sums: Sample | None = None
    with differentiating():
        x, y, target, index = without_inference(x, y, target, index)
        pass_seed = derive_seed(seed, "pass", 0)
        done = 0
        while done < passes:
            copies = min(chunk, passes - done, _fitting(x))
            rows = torch.cat([index + copy * COPY_STRIDE for copy in range(done, done + copies)])
            try:
                sample = _one_chunk(model, x, y, target, objective, penalty, pass_seed, rows, copies, check)
            except torch.OutOfMemoryError:
                if copies == 1:
                    raise
                _FITS[x.device] = copies // 2 * len(x)  # images; later calls begin there
                continue
            sums = sample if sums is None else Sample(*(a + b for a, b in zip(sums, sample, strict=True)))
            done += copies
    assert sums is not None
    return sums if passes == 1 else Sample(*(total / passes for total in sums))


_FITS: dict[torch.device, int] = {}  # images of a batch that a device was left with after it ran out of memory


def _fitting(x: Tensor) -> int:
    """How many passes over images a device has memory for, as far as is known; at least one."""
    return max(_FITS[x.device] // max(len(x), 1), 1) if x.device in _FITS else 2**31


def margins(
    model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor, passes: int = 1, check: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean margin (b,) and share of misclassified passes (b,) of each image, without gradients.

    Pass s draws its noise from (seed, s); `check` as in `expected_gradient`.
    """
    total, wrong = torch.zeros(2, len(x), device=x.device)
    with torch.no_grad():
        for s in range(passes):
            logits = query(model, x, seed=derive_seed(seed, "pass", s), index=index)
            if check:
                check_logits(logits, y)
            total, wrong = total + cw_margin(logits, y), wrong + misclassified(logits, y)
    return (total / passes).to(logits), (wrong / passes).to(logits)


def input_gradient(
    output: Tensor,
    leaf: Tensor,
    *,
    upstream: Tensor | None = None,
    keep_graph: bool = False,
    index: Tensor | None = None,
) -> Tensor:
    """The gradient in the images of the output's sum, or of its sum weighed by `upstream`, as it is.

    `index` (b,) are the images whose backward passes this is, to be counted.

    Raises:
        NoGradientError: there is none; zeros in its place would make any model look robust.
    """
    grad = None
    if output.requires_grad:
        upstream = torch.ones_like(output) if upstream is None else upstream
        (grad,) = torch.autograd.grad(output, leaf, upstream, retain_graph=keep_graph, allow_unused=True)
    if grad is None:
        raise NoGradientError(
            "the model's answer has no gradient in the images (it detaches, rounds to integers, leaves torch, or "
            "answers under torch.no_grad() or torch.inference_mode()), and a gradient attack would do nothing: attack "
            "it with Square, RayS, SPSA or a Transfer, or offer a backward rule (`gradients`, `with_gradient(name)`)"
        )
    if index is not None:
        count_passes(index, backward=True)
    return grad


def _one_chunk(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    objective: Objective,
    penalty: Penalty | None,
    seed: int,
    rows: Tensor,
    copies: int,
    check: bool,
) -> Sample:
    """Sums over the copies of each image in one batch."""
    leaf = x.detach().requires_grad_()
    images, labels, wanted = (torch.cat([part] * copies) if copies > 1 else part for part in (leaf, y, target))
    logits = query(model, images, seed=seed, index=rows)
    if check:
        check_logits(logits, labels)
    loss = objective(logits, wanted)
    if penalty is not None:
        loss = loss - penalty(images, seed, rows)
    grad, broken = repaired(input_gradient(loss, leaf, index=rows))
    if check and (broken == 1).any():
        raise ValueError(
            f"the gradient of the loss is NaN or infinite in every pixel of {int((broken == 1).sum())} of {len(x)} "
            "images: something in the model has no slope there, such as a root, a norm or a logarithm at 0"
        )
    logits, loss = logits.detach(), loss.detach()
    hard = not labels.is_floating_point()
    margin = cw_margin(logits, labels) if hard else torch.zeros_like(loss)
    wrong = misclassified(logits, labels).to(margin) if hard else margin
    loss, margin, wrong = (row.reshape(copies, -1).sum(dim=0) for row in (loss, margin, wrong))
    return Sample(grad, loss, margin, wrong, copies * broken)


class MeanLogits:
    """The classifier that answers with logits averaged over several passes of a random defence.

    For a defence that offers `with_noise` the memory of a backward pass does not grow with the number of passes: each
    is computed again from its seed. Other models keep the graphs of all passes.
    """

    def __init__(self, model: Classifier, *, passes: int, seed: int) -> None:
        if passes < 1:
            raise ValueError(f"passes must be at least 1, got {passes}")
        self.model, self.passes, self.seed = model, passes, seed
        self._calls = 0

    @property
    def gradients(self) -> tuple[str, ...]:
        """Backward rules that the defence inside offers."""
        return tuple(self.model.gradients) if isinstance(self.model, OffersGradients) else ()

    def with_gradient(self, name: str) -> "MeanLogits":
        """The average of the defence with one of its backward rules."""
        return MeanLogits(with_gradient(self.model, name), passes=self.passes, seed=self.seed)

    def with_noise(self, *, seed: int, index: Tensor) -> Classifier:
        """The averaged classifier, its passes drawn from (seed, index)."""
        return lambda x: self._mean(x, seed, index)

    def __call__(self, x: Tensor) -> Tensor:
        """Mean logits (b, k), with other noise at every call."""
        self._calls += 1
        index = torch.arange(len(x), device=x.device)
        return self._mean(x, derive_seed(self.seed, "mean logits", self._calls), index)

    def _mean(self, x: Tensor, seed: int, index: Tensor) -> Tensor:
        if isinstance(self.model, Randomised):
            result: Tensor = _ReplayedMean.apply(x, self, seed, index)
            return result
        return torch.stack([self.one_pass(x, seed, index, number) for number in range(self.passes)]).mean(dim=0)

    def one_pass(self, x: Tensor, seed: int, index: Tensor, number: int) -> Tensor:
        """Logits of pass `number`."""
        return query(self.model, x, seed=derive_seed(seed, "pass", number), index=index)


class _ReplayedMean(torch.autograd.Function):
    """Mean of passes whose graphs are rebuilt, one at a time, in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: MeanLogits, seed: int, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, index)
        ctx.mean, ctx.seed = mean, seed
        total = mean.one_pass(x, seed, index, 0)
        for number in range(1, mean.passes):
            total = total + mean.one_pass(x, seed, index, number)
        return total / mean.passes

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        x, index = ctx.saved_tensors
        upstream = grad_outputs[0] / ctx.mean.passes
        total = torch.zeros_like(x)
        for number in range(ctx.mean.passes):
            with torch.enable_grad(), uncounted():  # computed again, and no query
                leaf = x.detach().requires_grad_()
                logits = ctx.mean.one_pass(leaf, ctx.seed, index, number)
            total += input_gradient(logits, leaf, upstream=upstream)
        count_passes(index, backward=True, each=ctx.mean.passes - 1)  # one is counted by who asked
        return total, None, None, None
