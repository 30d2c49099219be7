"""Checks for robustness that comes from a hidden gradient, and not from the defence; each says what it saw in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rp_attacks.defence import Classifier, OffersGradients, Randomised
from rp_attacks.eot import expected_gradient, margins
from rp_attacks.gradient_free import SPSA
from rp_attacks.intervals import bootstrap_interval
from rp_attacks.isolation import PrivateStream
from rp_attacks.losses import cross_entropy, cw_margin
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, diameter
from rp_attacks.pgd import PGD
from rp_attacks.problem import Attack
from rp_attacks.record import Record
from rp_attacks.square import Square

if TYPE_CHECKING:
    from rp_attacks.report import ThreatReport

Level = Literal["ok", "note", "warning", "alarm", "refused"]
BLACK_BOX = ("Square", "LibrarySquare", "RayS", "SPSA", "Transfer", "Saved")


class Finding(NamedTuple):
    """What one check saw."""

    level: Level
    """"refused": no number can be given; "alarm": the number is most likely too high; "note", "ok": for the reader."""
    check: str
    text: str


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """A few images that are right when clean, on which cheap attacks are tried."""

    model: Classifier
    x: Tensor
    y: Tensor
    index: Tensor
    seed: int
    norm: Norm
    eps: float
    passes: int
    source: Classifier | None

    def accuracy(self, attack: Callable[..., Tensor], *, source: Classifier | None = None) -> float:
        """Share of passes that are right on the attack's images."""
        return float(self.right(attack, source=source).mean())

    def right(self, attack: Callable[..., Tensor], *, source: Classifier | None = None) -> Tensor:
        """Share of right passes of each image."""
        with PrivateStream(derive_seed(self.seed, "probe"))(self.x.device):
            x_adv = attack(source or self.model, self.x, self.y, seed=self.seed, index=self.index)
            report = derive_seed(self.seed, "probe verdict")
            _, wrong = margins(self.model, x_adv, self.y, seed=report, index=self.index, passes=self.passes)
        return 1 - wrong

    def pgd(self, *, eps: float | None = None, steps: int = 20, grad: str = "exact") -> PGD:
        """White-box attack on the margin, which a saturated softmax does not hide."""
        eps = self.eps if eps is None else eps
        return PGD(
            norm=self.norm,
            eps=eps,
            step_size=max(2.5 * eps / steps, 1e-12),
            steps=steps,
            loss="cw",
            select="best",
            eot=self.passes,
            grad=grad,
            l1_sparsity=0.05,
        )


def diagnose(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    *,
    clean: Record,
    threats: Sequence["ThreatReport"],
    attacks: Mapping[str, Attack],
    seed: int,
    probes: int = 32,
    source: Classifier | None = None,
    random: bool = False,
    batch_size: int = 128,
) -> list[Finding]:
    """Run every check of an evaluation.

    Args:
        model: classifier or defence.
        x: all images of the evaluation.
        y: their labels.
        index: their indices.
        clean: the clean control.
        threats: what the attacks found.
        attacks: by name.
        seed: of the evaluation.
        probes: images that the probing attacks run on, at most.
        source: undefended classifier for a transfer probe.
        random: whether the model is.
        batch_size: limit on the probes in one batch.

    Returns:
        Findings, the gravest first.
    """
    findings = [finding for threat in threats for finding in _from_records(clean, threat, attacks)]
    if random:
        findings.append(_randomness(model, clean))
    chosen = np.flatnonzero(clean.right.all(axis=1))[: min(probes, batch_size)]
    if len(chosen) == 0:
        findings.append(Finding("warning", "probes", "No image is right when clean: nothing could be probed."))
        return findings
    rows = torch.from_numpy(chosen).to(x.device)
    for threat in threats:
        if threat.eps == 0:
            continue
        probe = _Probe(
            model=model,
            x=x[rows],
            y=y[rows],
            index=index[rows],
            seed=derive_seed(seed, "diagnostics"),
            norm=threat.norm,
            eps=threat.eps,
            passes=5 if random else 1,
            source=source,
        )
        findings += _zero_gradients(probe) + _more_eps(probe) + _against_black_box(probe) + _surrogates(probe)
    gravity = ("refused", "alarm", "warning", "note", "ok")
    return sorted(dict.fromkeys(findings), key=lambda finding: gravity.index(finding.level))


def _from_records(clean: Record, threat: "ThreatReport", attacks: Mapping[str, Attack]) -> list[Finding]:
    """Checks on what the evaluation itself saw."""
    findings = []
    accuracy = {name: record.right.mean() for name, record in [("clean", clean), ("worst", threat.worst)]}
    gain = threat.worst.right.mean(axis=1) - clean.right.mean(axis=1)
    if gain.mean() > 0 and bootstrap_interval(gain, seed=0).low > 0:
        findings.append(
            Finding(
                "refused",
                "robust above clean",
                f"Accuracy under attack ({accuracy['worst']:.1%}) exceeds clean accuracy ({accuracy['clean']:.1%}) in "
                f"the {threat.name} ball, which contains the clean images: the evaluation is broken.",
            )
        )
    loss = threat.worst.right.mean(axis=1) - threat.noise.right.mean(axis=1)
    if loss.mean() > 0.005 and bootstrap_interval(loss, seed=0).low > 0:
        findings.append(
            Finding(
                "alarm",
                "noise control",
                f"Random noise in the {threat.name} ball does better than every attack: accuracy "
                f"{threat.noise.right.mean():.1%} against {accuracy['worst']:.1%}.",
            )
        )
    kinds = {name: type(attack).__name__ for name, attack in attacks.items()}
    if any(kinds.get(name) not in BLACK_BOX for name in threat.attacks):
        alone = sum(kinds.get(name) in BLACK_BOX for name in threat.chosen)
        if alone > max(1, 0.002 * len(clean)) and _order_is_white_first(threat, kinds):
            findings.append(
                Finding(
                    "alarm",
                    "black box beats white box",
                    f"Attacks without gradients broke {alone} of {len(clean)} images in the {threat.name} ball that "
                    "the gradient attacks before them left standing: the gradient misleads; trust none but the worst "
                    "case, and add attacks adapted to this defence.",
                )
            )
    return findings


def _order_is_white_first(threat: "ThreatReport", kinds: Mapping[str, str]) -> bool:
    black = [kinds.get(name) in BLACK_BOX for name in threat.attacks]
    return black == sorted(black)


def _randomness(model: Classifier, clean: Record) -> Finding:
    agree = np.abs(2 * clean.right.mean(axis=1) - 1).mean()
    text = f"The defence is random: passes over a clean image agree to {agree:.1%} on being right or wrong."
    if isinstance(model, Randomised):
        return Finding("note", "randomness", text)
    return Finding(
        "warning",
        "randomness",
        text + " It draws from the global generator, so that results depend on the batch size; offer "
        "`with_noise(seed=, index=)` to make them reproducible.",
    )


def _zero_gradients(probe: _Probe) -> list[Finding]:
    """Pixels without a gradient, at the images and a little inside the box."""
    inside = probe.x.clamp(1e-3, 1 - 1e-3)
    with PrivateStream(derive_seed(probe.seed, "probe"))(probe.x.device):
        at_image, within, entropy = (
            expected_gradient(
                probe.model, at, probe.y, loss, seed=probe.seed, index=probe.index, passes=probe.passes
            ).grad
            for at, loss in ((probe.x, cw_margin), (inside, cw_margin), (probe.x, cross_entropy))
        )
    share = (at_image == 0).float().flatten(1).mean(dim=1)
    none = int((share == 1).sum())
    findings = []
    if none:
        findings.append(
            Finding(
                "alarm",
                "zero gradients",
                f"The gradient is exactly zero for {none} of {len(share)} images: something in the defence (rounding, "
                "sign, argmax, thresholds, detached tensors) has no derivative, and gradient attacks do nothing. Use "
                "a backward surrogate (BPDA), Square, SPSA or transfer.",
            )
        )
    blocked = ((at_image == 0) & (within != 0)).float().flatten(1).mean(dim=1)
    if blocked.max() > 0.005:
        findings.append(
            Finding(
                "alarm",
                "clamped pixels",
                f"{blocked.mean():.1%} of the pixels (in one image {blocked.max():.1%}) have no gradient at the image "
                "and one a little inside [0, 1]: a clamp cuts the gradient at its bounds. Clamp with "
                "`rp_attacks.clamp`, or attack with PGD(inset=1e-4).",
            )
        )
    vanished = int(((entropy == 0).flatten(1).all(dim=1) & (share < 1)).sum())
    small = F.cosine_similarity(entropy.flatten(1), at_image.flatten(1), eps=1e-30)
    if vanished:
        findings.append(
            Finding(
                "alarm",
                "saturated softmax",
                f"The cross-entropy has a zero gradient for {vanished} of {len(share)} images where the margin has "
                "one: the logits are so large that the softmax saturates. Attack with loss='cw' or 'dlr'.",
            )
        )
    if not findings:
        findings.append(
            Finding(
                "ok",
                "zero gradients",
                f"Median share of zero gradient entries per image {share.median():.1%}; cross-entropy and margin "
                f"gradients have mean cosine {small.mean():.2f}.",
            )
        )
    return findings


def _more_eps(probe: _Probe) -> list[Finding]:
    """A larger ball must not help the defence, and the whole box must defeat it."""
    largest = diameter(probe.x[0], probe.norm)
    radii = sorted({probe.eps, min(2 * probe.eps, largest), largest})
    accuracy = [probe.accuracy(probe.pgd(eps=eps, steps=40 if eps == largest else 20)) for eps in radii]
    seen = ", ".join(f"{a:.1%} at {eps:.3g}" for a, eps in zip(accuracy, radii, strict=True))
    findings = []
    step = 2 / len(probe.x)
    if any(later > earlier + step for earlier, later in pairwise(accuracy)):
        text = f"A larger radius raises accuracy under a short PGD attack ({seen}), which no honest ball can do."
        findings.append(Finding("alarm", "larger radius", text + " The ascent follows a misleading gradient."))
    if accuracy[-1] > step:
        text = f"PGD without a limit on the perturbation leaves {accuracy[-1]:.1%} right ({seen}): with the whole "
        text += "box to move in, every image can be broken, so that the gradient does not show the way."
        findings.append(Finding("alarm", "unbounded attack", text))
    return findings or [Finding("ok", "larger radius", f"Accuracy falls with the radius under a short PGD ({seen}).")]


def _against_black_box(probe: _Probe) -> list[Finding]:
    """White-box PGD must be at least as strong as attacks that see no gradient."""
    white = probe.right(probe.pgd())
    rivals: dict[str, Tensor] = {}
    step_size = 2.5 * probe.eps / 20
    spsa = SPSA(norm=probe.norm, eps=probe.eps, step_size=step_size, steps=20, samples=16)
    rivals["SPSA"] = probe.right(spsa)
    if probe.norm == "linf":
        square = Square(eps=probe.eps, queries=200, rescale_schedule=True, passes=probe.passes)
        rivals["Square"] = probe.right(square)
    if probe.source is not None:
        rivals["transfer from the undefended classifier"] = probe.right(probe.pgd(), source=probe.source)
    findings = []
    for name, right in rivals.items():
        gain = (white - right).clamp_min(0).mean().item()
        if gain > max(0.02, 1.5 / len(white)):
            findings.append(
                Finding(
                    "alarm",
                    "black box beats white box",
                    f"{name} breaks images that white-box PGD does not (accuracy {right.mean():.1%} against "
                    f"{white.mean():.1%}, {gain:.1%} of the probed images): the gradient is masked.",
                )
            )
    seen = ", ".join(f"{name} {right.mean():.1%}" for name, right in rivals.items())
    text = f"White-box PGD ({white.mean():.1%}) is at least as strong on each probed image as {seen}."
    return findings or [Finding("ok", "black box", text)]


def _surrogates(probe: _Probe) -> list[Finding]:
    """Every backward rule that the defence offers, against the exact one."""
    if not isinstance(probe.model, OffersGradients) or not probe.model.gradients:
        return []
    names = ["exact", *(name for name in probe.model.gradients if name != "exact")]
    accuracy = {name: probe.accuracy(probe.pgd(grad=name)) for name in names}
    seen = ", ".join(f"{name} {a:.1%}" for name, a in accuracy.items())
    best = min(accuracy, key=lambda name: accuracy[name])
    if accuracy[best] < accuracy["exact"] - 1.5 / len(probe.x):
        text = f"The backward rule {best!r} is a stronger attack than the exact gradient ({seen}): run the attacks "
        return [Finding("warning", "surrogates", text + f"with grad={best!r} too.")]
    return [Finding("ok", "surrogates", f"No backward rule is stronger than the exact gradient ({seen}).")]
