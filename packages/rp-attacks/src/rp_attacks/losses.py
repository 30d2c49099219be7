"""Losses that attacks raise: from logits (b, k) and labels (b,) to one number per image, larger when more wrong."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["ce", "cw", "dlr"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each image, exact for confident predictions too.

    For labels it is log(1 + sum over the wrong classes of exp(logit - true logit)): its usual form rounds to 0 in
    float32, and the true logit's derivative with it, once the margin exceeds 17. Labels may be probabilities (b, k).
    """
    if y.is_floating_point():
        return F.cross_entropy(logits, y, reduction="none")
    lead = (logits - logits.gather(1, y[:, None])).scatter(1, y[:, None], float("-inf"))
    return F.softplus(lead.logsumexp(dim=1))


def cw_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the true one: positive where the image is misclassified, 0 at a tie.

    Source: the loss f_6 of Carlini & Wagner 2017, arXiv:1608.04644.
    """
    _require_classes(logits, 2, "margin")
    true = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], float("-inf"))
    return others.max(dim=1).values - true.squeeze(1)


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Whether each image is misclassified, (b,): the prediction is the largest logit, and of equal ones the first.

    This is the one rule for a tie, that of `argmax`; whatever counts right and wrong goes by it.
    """
    return logits.argmax(dim=1) != y


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin divided by the gap between first and third logit.

    Invariant to shift and scale of the logits, so that a classifier cannot hide behind saturated softmax outputs.
    Unbounded near ties of first and third: compare it only within one image. Needs three classes.
    Source: Eq. 6 of Croce & Hein 2020, arXiv:2003.01690.
    """
    _require_classes(logits, 3, "DLR")
    ordered = logits.sort(dim=1, descending=True).values
    return cw_margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The DLR loss towards one wrong class `target` (b,); needs four classes.

    Source: Eq. 7 of Croce & Hein 2020, arXiv:2003.01690.
    """
    _require_classes(logits, 4, "targeted DLR")
    ordered = logits.sort(dim=1, descending=True).values
    true, wanted = logits.gather(1, torch.stack([y, target], dim=1)).unbind(dim=1)
    return (wanted - true) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


def kl_divergence(probabilities: Tensor, logits: Tensor) -> Tensor:
    """KL(p || softmax(logits)) of each image: what TRADES' inner attack raises, with p of the clean image.

    Source: Eq. 5 of Zhang et al. 2019, arXiv:1901.08573.
    """
    return F.kl_div(F.log_softmax(logits, dim=1), probabilities, reduction="none").sum(dim=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "cw": cw_margin, "dlr": dlr}


def _require_classes(logits: Tensor, least: int, name: str) -> None:
    if logits.shape[1] < least:
        fix = "use loss='cw'" if least > 2 else "give each class a logit"
        raise ValueError(f"the {name} loss needs at least {least} classes, the model gives {logits.shape[1]}; {fix}")
