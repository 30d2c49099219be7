"""Synthetic images selected by a classifier's confidence, as DM-AT's 1 M set was from 5 M.

A few bytes are kept for each candidate, its score and its label; the images stay where they are. Source: Wang et al.
2023, arXiv:2302.04638.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def quotas(counts: Tensor, total: int) -> Tensor:
    """How many images to keep of each class: `total` in all, in proportion to the candidates (largest remainders).

    `counts` and the quotas are int64 (k,); remainders of equal size go to the lower class. Raises ValueError if there
    are fewer candidates than images to keep.
    """
    candidates = int(counts.sum())
    if not 0 <= total <= candidates:
        raise ValueError(f"cannot keep {total} of {candidates} candidates")
    if total == 0:
        return torch.zeros_like(counts)
    whole, remainder = counts * total // candidates, counts * total % candidates
    missing = total - int(whole.sum())
    whole[torch.argsort(remainder, descending=True, stable=True)[:missing]] += 1
    return whole


def most_confident(scores: Tensor, labels: Tensor, total: int) -> Tensor:
    """Which candidates to keep: of each class those with the highest scores, in proportion to its candidates.

    `scores` (n,) are the classifier's probabilities of the labels (n,). The positions of the kept ones, int64 (total,),
    rise; of equal scores the first is kept. Raises ValueError if shapes differ, a score is NaN, or there are too few
    candidates.
    """
    if scores.shape != labels.shape or scores.dim() != 1:
        raise ValueError(f"expected a score for each label, got {tuple(scores.shape)} and {tuple(labels.shape)}")
    if bool(scores.isnan().any()):
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN; is the classifier damaged?")
    counts = labels.bincount()
    keep = quotas(counts, total)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(labels[order], stable=True)]  # class by class, falling score within each
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[rank < keep.repeat_interleave(counts)].sort().values


@torch.no_grad()
def confidence(
    classifier: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor | None, *, batch_size: int
) -> tuple[Tensor, Tensor]:
    """A classifier's probability of each image's label, or of its own prediction where there are no labels.

    `images` are uint8 (n, c, h, w), on the device of the classifier, which is in eval mode. Returns probabilities (n,)
    in float32, and the labels (n,), on the CPU.
    """
    scores, given = torch.empty(len(images)), torch.empty(len(images), dtype=torch.int64)
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        logits = classifier(images[rows].float() / 255).float()
        chosen = logits.argmax(dim=1) if labels is None else labels[rows].to(logits.device)
        scores[rows] = logits.softmax(dim=1).gather(1, chosen[:, None])[:, 0].cpu()
        given[rows] = chosen.cpu()
    return scores, given
