"""What was seen of each image: the passes that report, apart from the passes that select."""

from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rp_attacks.defence import Classifier, Randomised, query
from rp_attacks.losses import cw_margin, misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.problem import check_logits
from rp_attacks.resume import resumable
from rp_attacks.rng import PrivateStream

Purpose = Literal["select", "report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Verdicts on n images; arrays with one row per image.

    Of an image that an attack was not tried on, or that it gave back unchanged, they are what was known before.
    """

    right: npt.NDArray[np.bool_]  # (n, K): was each of the K reported passes right
    # (n,) share of the selecting passes that were wrong, and their mean margin; of those that were made, since a
    # candidate is given up when the passes left cannot make it the worse one any more
    wrong: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]
    distance: npt.NDArray[np.float32]  # (n,) size of the perturbation
    tried: npt.NDArray[np.bool_]  # (n,) whether the attack was run on the image
    # what the attack cost and how it went, (n,) each; see `rp_attacks.watch`
    forward: npt.NDArray[np.float32]  # its forward passes of the model under attack
    backward: npt.NDArray[np.float32]  # its backward passes of that model
    source: npt.NDArray[np.float32]  # its forward passes of other models, for transfer
    judged: npt.NDArray[np.float32]  # passes for this verdict
    seconds: npt.NDArray[np.float32]  # the image's part of the time of its batch
    stuck: npt.NDArray[np.bool_]  # whether its loss was never higher than at the first iterate
    fooled: npt.NDArray[np.bool_]  # whether every pass was wrong at one of its iterates
    blind: npt.NDArray[np.bool_]  # whether a part that asks for no gradient broke the image after parts that do

    def __len__(self) -> int:
        return len(self.right)

    @property
    def standing(self) -> npt.NDArray[np.bool_]:
        """Images that at least one selecting pass gets right."""
        return self.wrong < 1

    def worse_than(self, other: "Record") -> npt.NDArray[np.bool_]:
        """Where this record is the worse one for the defence, by the selecting passes alone."""
        return _worse(self.wrong, self.margin, other.wrong, other.margin)

    def where(self, chosen: npt.NDArray[np.bool_], other: "Record") -> "Record":
        """This record in the chosen rows and the other one elsewhere."""
        parts = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Record(
            **{
                name: np.where(chosen.reshape(-1, *[1] * (mine.ndim - 1)), mine, theirs)
                for name, (mine, theirs) in parts.items()
            }
        )

    def take(self, rows: npt.NDArray[np.bool_] | slice) -> "Record":
        """The given rows alone."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def empty(passes: int) -> "Record":
        """The record of no image."""
        none, never = np.empty(0, np.float32), np.empty(0, np.bool_)
        rest: dict[str, Any] = {f.name: never if f.name in _YES_OR_NO else none for f in fields(Record)}
        return Record(**{**rest, "right": np.empty((0, passes), np.bool_)})

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
    distance: Tensor,
    seed: int,
    index: Tensor,
    passes: int,
    random: bool,
    batch_size: int,
    tried: Tensor | None = None,
    known: Record | None = None,
    repeated: Tensor | None = None,
    whole: bool = True,
) -> Record:
    """Judge candidate images by fresh noise.

    The seeds of the passes do not depend on the candidate. Of a random model as many other passes select.

    Args:
        distance: (b,) how far each candidate is from its image; those at 0 are the images themselves.
        tried: bool (b,), which candidates are to be judged; by default all.
        known: of the same images, what is taken over for the others.
        repeated: bool (b,), which candidates are those that the known record is about.
        whole: False reports on those candidates alone that the selecting passes call worse than what is known, and
            gives a candidate up as soon as it cannot be that any more.
        random: whether other passes select than those that report.
    """
    rows = (torch.ones_like(y, dtype=torch.bool) if tried is None else tried).clone()
    table = _Table(len(x_adv), passes, known)
    ask = partial(_passes, model, seed=seed, size=batch_size, passes=passes)
    if known is not None:
        rows &= distance > 0
    if repeated is not None:
        rows &= ~repeated
    rival = None if known is None or whole else torch.from_numpy(known.wrong * passes).round().to(y)
    purposes: tuple[Purpose, ...] = ("select", "report") if random else ("report",)
    for purpose in purposes:
        if bool(rows.any()):
            to_beat = rival[rows] if rival is not None and purpose == "select" else None
            seen = ask(x_adv[rows], y[rows], index=index[rows], purpose=purpose, to_beat=to_beat)
            table.write(rows, seen, reports=purpose == "report", selects=purpose == purposes[0])
        if known is not None and not whole:
            rows = rows & torch.from_numpy(table.worse_than(known)).to(rows.device)
    none = np.zeros(len(x_adv), np.float32)
    return Record(
        right=table.right, wrong=table.wrong, margin=table.margin, judged=table.judged,
        distance=distance.float().cpu().numpy(),
        tried=np.ones(len(x_adv), np.bool_) if tried is None else tried.cpu().numpy(),
        forward=none, backward=none, source=none, seconds=none, stuck=none > 0, fooled=none > 0, blind=none > 0,
    )  # fmt: skip


_YES_OR_NO = ("tried", "stuck", "fooled", "blind")


class _Table:
    """Verdicts that are filled in, pass by pass; in the beginning those that are known."""

    def __init__(self, count: int, passes: int, known: Record | None) -> None:
        self.judged, self.wrong, self.margin = (np.zeros(count, np.float32) for _ in range(3))
        self.right = np.zeros((count, passes), np.bool_)
        if known is not None:
            self.wrong, self.margin, self.right = known.wrong.copy(), known.margin.copy(), known.right.copy()

    def write(self, rows: Tensor, seen: "_Seen", *, reports: bool, selects: bool) -> None:
        """Add what was seen of some rows."""
        at, made = rows.cpu().numpy(), seen.made.cpu().numpy()
        self.judged[at] += made
        if reports:
            self.right[at] = ~seen.wrong.T.cpu().numpy()
        if selects:
            self.wrong[at] = seen.wrong.sum(dim=0).cpu().numpy() / made
            self.margin[at] = seen.margins.sum(dim=0).cpu().numpy() / made

    def worse_than(self, known: Record) -> npt.NDArray[np.bool_]:
        """As `Record.worse_than`, by the passes so far."""
        return _worse(self.wrong, self.margin, known.wrong, known.margin)


def _worse(
    wrong: npt.NDArray[np.float32],
    margin: npt.NDArray[np.float32],
    other_wrong: npt.NDArray[np.float32],
    other_margin: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    return (wrong > other_wrong) | ((wrong == other_wrong) & (margin > other_margin))


class _Seen:
    """Whether each of K passes misclassifies each of n images, and its margin, (K, n); how many were made, (n,)."""

    def __init__(self, passes: int, images: int, like: Tensor) -> None:
        self.wrong = torch.zeros(passes, images, dtype=torch.bool, device=like.device)
        self.margins = torch.zeros(passes, images, device=like.device)
        self.made = torch.zeros(images, dtype=torch.int64, device=like.device)


def _passes(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    purpose: Purpose,
    seed: int,
    index: Tensor,
    passes: int,
    size: int,
    to_beat: Tensor | None,
) -> _Seen:
    """What K passes say; those of an image end where not even all that are left could make `to_beat` wrong ones."""
    seen = _Seen(passes, len(x), x)
    rows = torch.arange(len(x), device=x.device)
    for number in resumable(purpose, passes, seen):
        if to_beat is not None:
            rows = (seen.wrong.sum(dim=0) + passes - number >= to_beat).nonzero().flatten()
            if len(rows) == 0:
                break
        logits = _pass(model, x[rows], seed=derive_seed(seed, purpose, number), index=index[rows], batch_size=size)
        check_logits(logits, y[rows])
        seen.wrong[number, rows], seen.margins[number, rows] = (
            misclassified(logits, y[rows]),
            cw_margin(logits, y[rows]),
        )
        seen.made[rows] += 1
    return seen


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
