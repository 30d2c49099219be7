"""Cheap attacks on a few images that show whether a defence hides its gradient."""

import math
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from rp_attacks.defence import Classifier, OffersGradients
from rp_attacks.eot import NoGradientError, Objective, expected_gradient, margins
from rp_attacks.gradient_free import SPSA
from rp_attacks.losses import cross_entropy, cw_margin
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm
from rp_attacks.pgd import PGD
from rp_attacks.radii import diameter
from rp_attacks.report import Finding
from rp_attacks.rng import PrivateStream
from rp_attacks.square import Square


@dataclass(frozen=True, kw_only=True)
class Probe:
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
    chunk: int = 1  # passes of one gradient made in one batch

    @cached_property
    def white_box(self) -> Tensor:
        """Share of right passes of each image under `pgd()`, with which the other attacks are compared."""
        return self.right(self.pgd())

    @property
    def slack(self) -> float:
        """A difference of two accuracies that chance explains: two images, or 2.5 standard errors of random passes."""
        images = len(self.x)
        noise = 0.0 if self.passes == 1 else 2.5 * math.sqrt(0.5 / (self.passes * images))
        return max(2 / images, noise)

    def accuracy(self, *, eps: float | None = None, steps: int = 20, grad: str = "exact") -> float:
        """Share of passes that are right under such a `pgd`."""
        attack = self.pgd(eps=eps, steps=steps, grad=grad)
        return float((self.white_box if attack == self.pgd() else self.right(attack)).mean())

    def right(
        self, attack: Callable[..., Tensor], *, source: Classifier | None = None, rows: Tensor | slice = slice(None)
    ) -> Tensor:
        """Share of right passes of each of some images."""
        x, y, index = self.x[rows], self.y[rows], self.index[rows]
        with PrivateStream(derive_seed(self.seed, "probe"))(self.x.device):
            x_adv = x
            with suppress(NoGradientError):  # the alarm is `zero_gradients`'
                x_adv = attack(source or self.model, x, y, seed=self.seed, index=index)
            report = derive_seed(self.seed, "probe verdict")
            _, wrong = margins(self.model, x_adv, y, seed=report, index=index, passes=self.passes)
        return 1 - wrong

    def rival(self, attack: Callable[..., Tensor], *, source: Classifier | None = None) -> Tensor:
        """Share of right passes of each image under another attack, for comparison with `white_box`.

        Of a deterministic model only the images that `white_box` left are attacked: no other can tell them apart.
        """
        if self.passes > 1:
            return self.right(attack, source=source)
        right, rows = self.white_box.clone(), self.white_box.nonzero().flatten()
        if len(rows):
            right[rows] = self.right(attack, source=source, rows=rows)
        return right

    def pgd(self, *, eps: float | None = None, steps: int = 20, grad: str = "exact") -> PGD:
        """White-box attack on the margin, which a saturated softmax does not hide."""
        eps = self.eps if eps is None else eps
        return PGD(
            norm=self.norm, eps=eps, step_size=max(2.5 * eps / steps, 1e-12), steps=steps, loss="cw", select="best",
            early_stop=True, eot=self.passes, eot_chunk=self.chunk, grad=grad,
        )  # fmt: skip


def zero_gradients(probe: Probe) -> list[Finding]:
    """Pixels without a gradient, at the images and a little inside the box."""
    inside = probe.x.clamp(1e-3, 1 - 1e-3)
    with PrivateStream(derive_seed(probe.seed, "probe"))(probe.x.device):
        (at_image, broken), (within, _), (entropy, _) = (
            _gradient(probe, at, loss)
            for at, loss in ((probe.x, cw_margin), (inside, cw_margin), (probe.x, cross_entropy))
        )
    share = (at_image == 0).float().flatten(1).mean(dim=1)
    none = int((share == 1).sum())
    findings = []
    if broken.max() > 0:
        text = f"The gradient is NaN or infinite in {broken.mean():.1%} of the pixels (of {int((broken > 0).sum())} of "
        text += f"{len(share)} images), as that of a root, a norm or a logarithm is at 0. Attacks take NaN for 0 and "
        text += "infinity for the steepest finite slope; a small constant inside the function makes them certain."
        findings.append(Finding("warning", "non-finite gradient", text))
    if none:
        text = (
            f"The gradient is exactly zero for {none} of {len(share)} images: something in the defence (rounding, "
            "sign, argmax, thresholds, detached tensors) has no derivative, and gradient attacks do nothing. Use "
            "a backward surrogate (BPDA), Square, SPSA or transfer."
        )
        findings.append(Finding("alarm", "zero gradients", text))
    blocked = ((at_image == 0) & (within != 0)).float().flatten(1).mean(dim=1)
    # the two places may take other ways through a random defence: a few pixels are chance
    if blocked.max() > (0.005 if probe.passes == 1 else 0.05):
        text = (
            f"{blocked.mean():.1%} of the pixels (in one image {blocked.max():.1%}) have no gradient at the image "
            "and one a little inside [0, 1]: a clamp cuts the gradient at its bounds. Clamp with "
            "`rp_attacks.clamp`, or attack with PGD(inset=1e-4)."
        )
        findings.append(Finding("alarm", "clamped pixels", text))
    vanished = int(((entropy == 0).flatten(1).all(dim=1) & (share < 1)).sum())
    cosine = F.cosine_similarity(entropy.flatten(1), at_image.flatten(1), eps=1e-30)
    if vanished:
        text = (
            f"The cross-entropy has a zero gradient for {vanished} of {len(share)} images where the margin has "
            "one: the logits are so large that the softmax saturates. Attack with loss='cw' or 'dlr'."
        )
        findings.append(Finding("alarm", "saturated softmax", text))
    if findings:
        return findings
    seen = f"Median share of exactly zero gradient entries per image {share.median():.1%}"
    if share.median() > 0.5:
        text = seen + ": pixels that the defence ignores, or a gradient that half precision rounds to zero."
        return [Finding("warning", "zero gradients", text)]
    return [Finding("ok", "zero gradients", f"{seen}; loss and margin gradients have mean cosine {cosine.mean():.2f}.")]


def _gradient(probe: Probe, at: Tensor, loss: Objective) -> tuple[Tensor, Tensor]:
    """A gradient and the share of each image's entries that were no number; zeros where there is no gradient."""
    try:
        sample = expected_gradient(
            probe.model, at, probe.y, loss, seed=probe.seed, index=probe.index, passes=probe.passes, chunk=probe.chunk
        )
    except NoGradientError:
        return torch.zeros_like(at), at.new_zeros(len(at))
    return sample.grad, sample.broken


def larger_radius(probe: Probe) -> list[Finding]:
    """A larger ball must not help the defence, and the whole box must defeat it."""
    largest = diameter(probe.norm, probe.x[0].numel())
    radii = sorted({probe.eps, min(2 * probe.eps, largest), largest})
    accuracy = [probe.accuracy(eps=eps, steps=40 if eps == largest else 20) for eps in radii]
    seen = ", ".join(f"{a:.1%} at {eps:.3g}" for a, eps in zip(accuracy, radii, strict=True))
    findings = []
    if any(later > earlier + probe.slack for earlier, later in pairwise(accuracy)):
        text = f"A larger radius raises accuracy under a short PGD attack ({seen}), which no honest ball can do."
        findings.append(Finding("alarm", "larger radius", text + " The ascent follows a misleading gradient."))
    if accuracy[-1] > probe.slack:
        text = f"PGD without a limit on the perturbation leaves {accuracy[-1]:.1%} right ({seen}): with the whole "
        text += "box to move in, every image can be broken, so that the gradient does not show the way."
        findings.append(Finding("alarm", "unbounded attack", text))
    return findings or [Finding("ok", "larger radius", f"Accuracy falls with the radius under a short PGD ({seen}).")]


def black_box(probe: Probe) -> list[Finding]:
    """White-box PGD must be at least as strong as attacks that see no gradient."""
    white = probe.white_box
    steps, samples, queries = (10, 10, 100) if probe.passes == 1 else (10, 8, 50)
    spsa = SPSA(norm=probe.norm, eps=probe.eps, step_size=2.5 * probe.eps / steps, steps=steps, samples=samples)
    rivals = {"SPSA": probe.rival(spsa)}
    if probe.norm == "linf":
        square = Square(eps=probe.eps, queries=queries, rescale_schedule=True, passes=probe.passes, race=True)
        rivals["Square"] = probe.rival(square)
    if probe.source is not None:
        rivals["transfer from the undefended classifier"] = probe.rival(probe.pgd(), source=probe.source)
    findings = []
    for name, right in rivals.items():
        gain = (white - right).mean().item()
        if gain >= probe.slack:
            text = (
                f"{name} breaks images that white-box PGD does not (accuracy {white.mean() - gain:.1%} against "
                f"{white.mean():.1%}, {gain:.1%} of the probed images): the gradient is masked."
            )
            findings.append(Finding("alarm", "black box beats white box", text))
    seen = ", ".join(f"{name} {right.mean():.1%}" for name, right in rivals.items())
    text = f"White-box PGD leaves {white.mean():.1%} of the probed images right, and attacks without gradients no fewer"
    return findings or [Finding("ok", "black box", f"{text}, up to chance: {seen}.")]


def surrogates(probe: Probe, run: Collection[str] = ()) -> list[Finding]:
    """Every backward rule that the defence offers, against the exact one; not those that attacks have `run` already."""
    if not isinstance(probe.model, OffersGradients):
        return []
    offered = [name for name in probe.model.gradients if name != "exact"]
    names = [name for name in offered if name not in run]
    if not names:
        text = f"Every backward rule that the defence offers was run as an attack of its own: {', '.join(offered)}."
        return [Finding("ok", "surrogates", text)] if offered else []
    accuracy = {name: probe.accuracy(grad=name) for name in ("exact", *names)}
    seen = ", ".join(f"{name} {a:.1%}" for name, a in accuracy.items())
    best = min(accuracy, key=lambda name: accuracy[name])
    if accuracy[best] <= accuracy["exact"] - probe.slack:
        text = f"The backward rule {best!r} is a stronger attack than the exact gradient ({seen}): run the attacks "
        return [Finding("warning", "surrogates", text + f"with grad={best!r} too.")]
    return [Finding("ok", "surrogates", f"No backward rule is stronger than the exact gradient ({seen}).")]
