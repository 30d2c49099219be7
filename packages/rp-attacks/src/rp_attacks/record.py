"""What was seen of each image: the passes that report, apart from the passes that select."""

from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rp_attacks.defence import Classifier, Randomised, query
from rp_attacks.losses import cw_margin, misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.problem import check_logits
from rp_attacks.rng import PrivateStream

Purpose = Literal["select", "report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Verdicts on n images; arrays with one row per image."""

    right: npt.NDArray[np.bool_]  # (n, K): was each of the K reported passes right
    wrong: npt.NDArray[np.float32]  # (n,) share of the selecting passes that were wrong
    margin: npt.NDArray[np.float32]  # (n,) mean margin over the selecting passes
    distance: npt.NDArray[np.float32]  # (n,) size of the perturbation
    tried: npt.NDArray[np.bool_]  # (n,) whether the attack was run on the image

    def __len__(self) -> int:
        return len(self.right)

    @property
    def standing(self) -> npt.NDArray[np.bool_]:
        """Images that at least one selecting pass gets right."""
        return self.wrong < 1

    def worse_than(self, other: "Record") -> npt.NDArray[np.bool_]:
        """Where this record is the worse one for the defence, by the selecting passes alone."""
        tie = self.wrong == other.wrong
        return (self.wrong > other.wrong) | (tie & (self.margin > other.margin))

    def where(self, chosen: npt.NDArray[np.bool_], other: "Record") -> "Record":
        """This record in the chosen rows and the other one elsewhere."""
        parts = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Record(
            **{
                name: np.where(chosen.reshape(-1, *[1] * (mine.ndim - 1)), mine, theirs)
                for name, (mine, theirs) in parts.items()
            }
        )

    def take(self, rows: npt.NDArray[np.bool_]) -> "Record":
        """The given rows alone."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def empty(passes: int) -> "Record":
        """The record of no image."""
        none = np.empty(0, np.float32)
        right, tried = np.empty((0, passes), np.bool_), np.empty(0, np.bool_)
        return Record(right=right, wrong=none, margin=none, distance=none, tried=tried)

    @staticmethod
    def join(records: "list[Record]") -> "Record":
        """Records of several blocks, one after another."""
        return Record(**{f.name: np.concatenate([getattr(r, f.name) for r in records]) for f in fields(Record)})


_GROUP, _GROUPS, _CALLS = 8, 4, 24  # images asked together, such groups, and calls over all of them


def is_random(model: Classifier, x: Tensor, *, index: Tensor) -> bool:
    """Whether passes over the same images ever differ by more than rounding, in any logit.

    A defence may be random in a few calls or images only, so some groups of images are asked under several seeds each.
    """
    groups = torch.arange(len(x), device=x.device).split(_GROUP)[:_GROUPS]
    for seed in range(2, 2 + _CALLS // len(groups)):
        for rows in groups:
            first, other = (_pass(model, x[rows], seed=s, index=index[rows], batch_size=_GROUP) for s in (1, seed))
            if ((first - other).abs() > 1e-4 * (1 + first.abs().amax(dim=1, keepdim=True))).any():
                return True
    return False


def judge(
    model: Classifier,
    x_adv: Tensor,
    y: Tensor,
    *,
    x: Tensor,
    distance: Tensor,
    tried: Tensor,
    seed: int,
    index: Tensor,
    passes: int,
    random: bool,
    batch_size: int,
) -> Record:
    """Judge candidate images by fresh noise.

    The seeds of the passes do not depend on the candidate: two candidates that are the same image get the same record,
    so that an attack of radius 0 reports exactly the clean control.
    Of a random model as many other passes select; a candidate that was not `tried` is judged as the clean image.
    """
    candidates = torch.where(tried[:, None, None, None], x_adv, x)
    wrong, margins = reported = _passes(model, candidates, y, "report", seed, index, passes, batch_size)
    if random:
        wrong, margins = _passes(model, candidates, y, "select", seed, index, passes, batch_size)
    return Record(
        right=~reported[0].T.cpu().numpy(),
        wrong=wrong.float().mean(dim=0).cpu().numpy(),
        margin=margins.float().mean(dim=0).cpu().numpy(),
        distance=distance.float().cpu().numpy(),
        tried=tried.cpu().numpy(),
    )


def _passes(
    model: Classifier, x: Tensor, y: Tensor, purpose: Purpose, seed: int, index: Tensor, passes: int, size: int
) -> tuple[Tensor, Tensor]:
    """Whether each of K passes misclassifies each of n images, and its margin, both (K, n)."""
    wrong, margins = [], []
    for number in range(passes):
        logits = _pass(model, x, seed=derive_seed(seed, purpose, number), index=index, batch_size=size)
        check_logits(logits, y)
        wrong.append(misclassified(logits, y))
        margins.append(cw_margin(logits, y))
    return torch.stack(wrong), torch.stack(margins)


def _pass(model: Classifier, x: Tensor, *, seed: int, index: Tensor, batch_size: int) -> Tensor:
    """Logits of one pass over all images; a model's global noise comes from a private stream."""
    stream = PrivateStream(derive_seed(seed, "images from", int(index[0])))  # other noise in every block
    with torch.no_grad():
        parts = []
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            with nullcontext() if isinstance(model, Randomised) else stream(x.device):
                parts.append(query(model, x[part], seed=seed, index=index[part]))
        return torch.cat(parts)
