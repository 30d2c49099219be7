"""An attacker who submits every iterate: the worst case on the path, beside as many passes over the clean image.

Enough passes break the clean image of a random defence too, so that the one number means nothing without the other.
Source: DiffHammer's verdict on every iterate (Ka1b0/DiffHammer, 1010822), with the control that it lacks.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rp_attacks.defence import Classifier, query
from rp_attacks.intervals import Interval, wilson_interval
from rp_attacks.losses import misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.problem import Attack
from rp_attacks.rng import PrivateStream
from rp_attacks.validation import admit, plain
from rp_attacks.watch import Part, Step, watched


class OnPath(NamedTuple):
    """Shares of images that are never misclassified."""

    attacked: Interval
    """In no pass over any iterate of the attack."""
    clean: Interval
    """In none of as many passes over the clean image."""
    submissions: float
    """Passes of an image, on average."""


@torch.inference_mode(False)
def worst_on_path(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    seed: int,
    index: Tensor | None = None,
    batch_size: int = 128,
    level: float = 0.95,
) -> OnPath:
    """The accuracy that is left if every pass of every iterate is a submission.

    The attack must show its steps (`PGD`, `APGD`, `DiffHammer`, `Square`; see `rp_attacks.watch`). Args as in
    `evaluate`.

    Raises:
        ValueError: the attack shows no step.
    """
    x, y, index = plain(x), plain(y), None if index is None else plain(index)
    index = admit(model, x, y, {"attack": attack}, index)
    passes = int(getattr(attack, "draws", getattr(attack, "passes", getattr(attack, "eot", 1))))
    place = {image: row for row, image in enumerate(index.tolist())}
    submitted, fooled = np.zeros(len(x), np.int64), np.zeros(len(x), np.bool_)

    def see(step: Step | Part) -> None:
        if isinstance(step, Step) and not step.on_source:
            rows = [place[image] for image in step.image.tolist()]
            submitted[rows] += passes
            fooled[rows] |= (step.wrong > 0).cpu().numpy()

    stream = PrivateStream(derive_seed(seed, "path"))
    with watched(see), stream(x.device):
        for rows in torch.arange(len(x), device=x.device).split(batch_size):
            attack(model, x[rows], y[rows], seed=derive_seed(seed, "attack"), index=index[rows])
    if not submitted.any():
        raise ValueError(f"{type(attack).__name__} shows no steps on this model: pass PGD, APGD, DiffHammer or Square")
    clean = np.zeros(len(x), np.bool_)
    with torch.no_grad():
        for number in range(int(submitted.max())):
            left = torch.from_numpy(np.flatnonzero((submitted > number) & ~clean)).to(x.device)
            for rows in left.split(batch_size):
                with stream(x.device):
                    logits = query(model, x[rows], seed=derive_seed(seed, "clean path", number), index=index[rows])
                clean[rows.cpu().numpy()] = misclassified(logits, y[rows]).cpu().numpy()
    attacked, control = (wilson_interval(int((~wrong).sum()), len(x), level) for wrong in (fooled, clean))
    return OnPath(attacked, control, float(submitted.mean()))
