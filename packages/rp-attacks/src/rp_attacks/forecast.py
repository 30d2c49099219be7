"""The passes that attacks will ask for, reckoned before any is run, and the time that they will take."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rp_attacks.alma import ALMA
from rp_attacks.apgd import APGD
from rp_attacks.autoattack import FAB, AutoAttack, LibrarySquare
from rp_attacks.carlini_wagner import CarliniWagner
from rp_attacks.ddn import DDN
from rp_attacks.deepfool import DeepFool
from rp_attacks.defence import Classifier
from rp_attacks.diffhammer import DiffHammer
from rp_attacks.eot import NoGradientError, expected_gradient, margins
from rp_attacks.fmn import FMN
from rp_attacks.gradient_free import SPSA
from rp_attacks.losses import cross_entropy
from rp_attacks.pgd import PGD
from rp_attacks.presets import OnMeanLogits
from rp_attacks.problem import Attack
from rp_attacks.rays import RayS
from rp_attacks.rng import PrivateStream
from rp_attacks.sigma_zero import SigmaZero
from rp_attacks.square import Square
from rp_attacks.super_deepfool import SuperDeepFool
from rp_attacks.transfer import Saved, Transfer
from rp_attacks.watch import uncounted


class AtMost(NamedTuple):
    """Passes of the model under attack for one image that nothing breaks."""

    forward: int
    backward: int


# forward and backward passes of the library's parts: AutoAttack standard and plus, Linf and L2, nine targets
_PARTS = {
    "apgd-ce": (101, 101), "apgd-dlr": (101, 101), "apgd-t": (918, 909), "fab": (200, 1000), "fab-t": (1827, 900),
    "square": (5002, 0),
}  # fmt: skip
_PARTS_L1 = {**_PARTS, "apgd-ce": (515, 515), "apgd-dlr": (515, 515), "apgd-t": (520, 515)}


def passes_of(attack: Attack, classes: int = 10) -> AtMost | None:
    """The most passes that an attack makes for an image, without those of the verdict; None where nobody knows.

    An attack of another package may say it by a method `forecast(classes) -> (forward, backward)`.
    """
    said = getattr(attack, "forecast", None)
    if callable(said):
        return AtMost(*said(classes))
    if isinstance(attack, OnMeanLogits):
        inner = passes_of(attack.attack, classes)
        return None if inner is None else AtMost(*(attack.passes * count for count in inner))
    count = next((count for kind, count in _COUNTS.items() if isinstance(attack, kind)), None)
    return None if count is None else AtMost(*count(attack, classes))


def _of_pgd(attack: PGD, classes: int) -> tuple[int, int]:
    looks = attack.restarts * attack.steps * attack.eot
    last = attack.restarts * attack.eot if attack.judges else 0
    return looks + last + attack.restarts * (attack.loss == "kl"), looks


def _of_apgd(attack: APGD, classes: int) -> tuple[int, int]:
    targeted = attack.loss == "targeted-dlr"
    looks = attack.restarts * (min(attack.targets, classes - 1) if targeted else 1) * (attack.steps + 1) * attack.eot
    ranking = min(100, classes - 1) if targeted and attack.order == "malt" else 0
    return looks + targeted + (ranking > 0), looks + ranking


def _of_diffhammer(attack: DiffHammer, classes: int) -> tuple[int, int]:
    looks = attack.restarts * (attack.steps + 1)
    return looks * (attack.draws + attack.eot), looks * attack.draws


def _of_deepfool(attack: DeepFool, classes: int) -> tuple[int, int]:
    looks = attack.steps * attack.eot
    return looks + 1, looks * (min(attack.candidates, classes) - 1)


def _of_carlini_wagner(attack: CarliniWagner, classes: int) -> tuple[int, int]:
    looks = attack.search_steps * attack.steps * attack.eot
    return looks + 1, looks


def _of_fab(attack: FAB, classes: int) -> tuple[int, int]:
    runs = attack.restarts * min(attack.targets or 1, classes - 1)
    return (2 * attack.steps + 3) * runs + 2, runs * attack.steps * (1 if attack.targets else classes)


def _of_autoattack(attack: AutoAttack, classes: int) -> tuple[int, int]:
    """Parts with targets in proportion to the targets that there are."""
    versions = {
        "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
        "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        "rand": ("apgd-ce", "apgd-dlr"),
    }
    table, repeats = _PARTS_L1 if attack.norm == "l1" else _PARTS, {"plus": 5, "rand": 20}.get(attack.version, 1)
    forward, backward = 20, 0  # the library's checks, in up to two calls
    for part in attack.attacks or versions[attack.version]:
        share = min(9, classes - 1) / 9 if part in ("apgd-t", "fab-t") else 1
        share *= repeats if part in ("apgd-ce", "apgd-dlr", "fab") else 1
        forward, backward = forward + round(share * table[part][0]), backward + round(share * table[part][1])
    return forward, backward


def _of_super_deepfool(attack: SuperDeepFool, classes: int) -> tuple[int, int]:
    inner = attack.deepfool_steps * attack.eot  # of DeepFool in each step
    step = (inner + 2 * attack.eot + 1, inner * (min(attack.candidates, classes) - 1) + attack.eot)
    return attack.steps * step[0] + attack.bisections * attack.eot, attack.steps * step[1]


def _of_minimum_norm(attack: FMN | ALMA | SigmaZero, classes: int) -> tuple[int, int]:
    looks, ends = attack.steps * attack.eot, attack.bisections * attack.eot
    return looks + ends + isinstance(attack, ALMA), looks


def _of_ddn(attack: DDN, classes: int) -> tuple[int, int]:
    looks, ends = attack.steps * attack.eot, 0 if attack.levels else attack.bisections * attack.eot
    if attack.first_length is not None:
        return looks + ends, looks
    forward, backward = _of_deepfool(DeepFool(eot=attack.eot), classes)
    return forward + attack.eot + looks + ends, backward + looks


_COUNTS: dict[type, Callable[[Any, int], tuple[int, int]]] = {
    PGD: _of_pgd,
    APGD: _of_apgd,
    DiffHammer: _of_diffhammer,
    Square: lambda attack, classes: (attack.queries * attack.passes, 0),
    SPSA: lambda attack, classes: (attack.steps + 1 + attack.steps * 2 * attack.samples, 0),
    RayS: lambda attack, classes: ((attack.queries + 1) * attack.passes, 0),
    CarliniWagner: _of_carlini_wagner,
    DeepFool: _of_deepfool,
    SuperDeepFool: _of_super_deepfool,
    FMN: _of_minimum_norm,
    ALMA: _of_minimum_norm,
    SigmaZero: _of_minimum_norm,
    DDN: _of_ddn,
    Transfer: lambda attack, classes: (0, 0),
    Saved: lambda attack, classes: (0, 0),
    AutoAttack: _of_autoattack,
    FAB: _of_fab,
    LibrarySquare: lambda attack, classes: (attack.queries + 2, 0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What an evaluation costs at most: where nothing breaks, each image meets each attack at its full length."""

    images: int
    attacks: Mapping[str, AtMost | None]
    judging: int
    """Forward passes of verdicts and controls for an image."""
    forward_seconds: float
    """Of one image in one pass, measured."""
    backward_seconds: float
    """Of one image in one pass with its gradient, beyond those of the forward pass."""

    @property
    def forward(self) -> int:
        """Forward passes of an image by attacks."""
        return sum(each.forward for each in self.attacks.values() if each is not None)

    @property
    def backward(self) -> int:
        """Backward passes of an image by attacks."""
        return sum(each.backward for each in self.attacks.values() if each is not None)

    @property
    def seconds(self) -> float:
        """Of all images, in one process."""
        forward = (self.forward + self.judging) * self.forward_seconds
        return self.images * (forward + self.backward * self.backward_seconds)

    def __str__(self) -> str:
        unknown = [name for name, each in self.attacks.items() if each is None]
        hours, minutes = divmod(round(self.seconds / 60), 60)
        text = (
            f"at most {self.forward} forward and {self.backward} backward passes of an image by attacks and "
            f"{self.judging} for verdicts, {self.images} images: up to {hours} h {minutes:02d} min in one process; "
            "images that fall leave earlier"
        )
        return text + (f"; without {', '.join(unknown)}, whose passes are not known" if unknown else "")


def forecast(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    random: bool,
    passes: int | None = None,
    images: int | None = None,
    batch_size: int = 128,
) -> Forecast:
    """Reckon the passes of `evaluate`, and measure one pass on the first images; findings are not counted.

    Args as in `evaluate`; `random` says whether the model answers twice differently, and `images` how many there will
    be, by default those of x.
    """
    count, rows = len(x), slice(0, min(batch_size, len(x)))
    x, y = x[rows], y[rows]
    index = torch.arange(len(x), device=x.device)
    forward, both = [], []
    with PrivateStream(0)(x.device), uncounted():
        for _ in range(2):  # the first one warms up
            forward.append(_timed(lambda: margins(model, x, y, seed=0, index=index), x.device))
            both.append(_timed(lambda: _gradient(model, x, y, index), x.device))
    classes = _classes(model, x, index)
    return Forecast(
        images=count if images is None else images,
        attacks={name: passes_of(attack, classes) for name, attack in attacks.items()},
        judging=judging_passes(attacks, random=random, passes=passes),
        forward_seconds=forward[-1] / len(x), backward_seconds=max(both[-1] - forward[-1], 0.0) / len(x),
    )  # fmt: skip


def judging_passes(attacks: Mapping[str, Attack], *, random: bool, passes: int | None = None) -> int:
    """Forward passes of an image for the verdicts and controls of `evaluate`; args as in `forecast`."""
    passes = passes or (20 if random else 1)
    balls = len({(attack.norm, attack.eps) for attack in attacks.values()})
    select = passes if random else 0
    return passes + select + balls * passes + len(attacks) * (select + passes)


def _classes(model: Classifier, x: Tensor, index: Tensor) -> int:
    from rp_attacks.defence import query

    with torch.no_grad(), PrivateStream(0)(x.device), uncounted():
        return query(model, x[:1], seed=0, index=index[:1]).shape[1]


def _gradient(model: Classifier, x: Tensor, y: Tensor, index: Tensor) -> None:
    try:
        expected_gradient(model, x, y, cross_entropy, seed=0, index=index)
    except NoGradientError:
        return


def _timed(work: Any, device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
