"""Checks by attacks that an evaluation has not run: longer ones, through suspect layers, and with known noise."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rp_attacks import norms
from rp_attacks.apgd import APGD
from rp_attacks.defence import Classifier, FixedNoise, OffersGradients, OffersPurification, Randomised
from rp_attacks.eot import NoGradientError, expected_gradient
from rp_attacks.losses import cw_margin
from rp_attacks.noise import derive_seed
from rp_attacks.pgd import PGD
from rp_attacks.probes import Probe
from rp_attacks.problem import Attack
from rp_attacks.record_checks import kind
from rp_attacks.report import Finding
from rp_attacks.rng import PrivateStream
from rp_attacks.suspects import through_suspects
from rp_attacks.transfer import Transfer

_GAIN = 0.005  # of the images, that twice the iterations may break
_SEEDS = 3  # of known noise


def more_iterations(probe: Probe, left: Tensor, attacks: Mapping[str, Attack]) -> list[Finding]:
    """Twice the steps of the longest attack, on images that all attacks left standing; it should break no more.

    `left` is the share of right passes of the worst candidate of each.
    """
    chosen = [attack for attack in attacks.values() if isinstance(attack, PGD | APGD) and _begins_anew(attack)]
    if not chosen or len(probe.x) == 0:
        return []
    longest = max(chosen, key=lambda attack: attack.steps * attack.restarts)
    twice = probe.right(replace(longest, steps=2 * longest.steps))
    gain = (left - twice).mean().item()
    seen = (
        f"of {len(probe.x)} images that attacks of up to {longest.steps} steps left standing the worst candidates are "
    )
    seen += f"right in {left.mean():.1%} of the passes, and those of {2 * longest.steps} steps in {twice.mean():.1%}"
    if gain > max(_GAIN, probe.slack - 1e-6):
        text = f"More iterations help: {seen} (a gain above {_GAIN:.1%}): the search had not ended, take more steps."
        return [Finding("alarm", "more iterations", text)]
    return [Finding("ok", "more iterations", f"Twice the iterations do not help: {seen}.")]


def _begins_anew(attack: PGD | APGD) -> bool:
    exact = kind(attack) in ("exact gradient", "own target order")
    return exact and attack.start != "worst" and attack.loss != "targeted-dlr"


def masking_layers(probe: Probe) -> list[Finding]:
    """Layers that mask the gradient, and what the identity as their backward rule breaks."""
    if isinstance(probe.model, OffersGradients):  # its own rules are tried by `surrogates`
        return []
    wrapped, suspected = through_suspects(probe.model, probe.x, index=probe.index)
    if not suspected:
        return []
    names = "; ".join(f"{suspect.name or 'the model as a whole'} ({suspect.text})" for suspect in suspected[:5])
    names += f"; and {len(suspected) - 5} more" if len(suspected) > 5 else ""
    if wrapped is None:
        text = f"Layers that may mask the gradient: {names}. The identity does not fit them: give each a backward rule "
        return [Finding("warning", "masking layers", text + "(`rp_attacks.backward.with_backward`).")]
    through = replace(probe, model=wrapped).right(probe.pgd(grad="bpda"))
    best = torch.minimum(probe.white_box, through)
    gain = (probe.white_box - best).mean().item()
    seen = f"PGD through the identity in their place leaves {through.mean():.1%} of the probed images right, the exact "
    seen += f"gradient {probe.white_box.mean():.1%}, the worse of both {best.mean():.1%}"
    if gain >= probe.slack:
        text = f"BPDA beats the exact gradient. Layers that mask it: {names}. {seen}: attack "
        text += "`rp_attacks.backward.with_backward(model, {name: 'identity'})` with grad='bpda' as well."
        return [Finding("alarm", "BPDA beats exact gradient", text)]
    return [Finding("ok", "masking layers", f"Layers that might mask the gradient do not: {names}. {seen}.")]


def zero_at_start(probe: Probe) -> list[Finding]:
    """Images without a gradient at the random point where an attack begins."""
    start = norms.random_start(probe.x, norm=probe.norm, eps=probe.eps, seed=probe.seed, index=probe.index)
    grad = _gradient(probe, probe.model, start)
    if grad is None:
        return []  # said by `no gradient`
    none = int((grad.flatten(1).abs().sum(dim=1) == 0).sum())
    if not none:
        return []
    text = f"The gradient is exactly zero for {none} of {len(start)} images at the random start of an attack: gradient "
    text += "attacks do not leave it. Use a backward surrogate (BPDA), Square, SPSA or transfer."
    return [Finding("alarm", "zero gradient at start", text)]


def known_noise(probe: Probe) -> list[Finding]:
    """What is left of a random defence whose noise the attacker knows, over some seeds; a note, and no alarm.

    Source: evaluation under fixed randomness, arXiv:2505.22839.
    """
    if not isinstance(probe.model, Randomised):
        return []
    left = []
    for number in range(_SEEDS):
        known = replace(probe, model=FixedNoise(probe.model, seed=derive_seed(probe.seed, "known", number)), passes=1)
        left.append(known.right(known.pgd()).mean().item())
    text = (
        f"With its noise frozen and known the defence keeps {sum(left) / len(left):.1%} under a short PGD (from "
        f"{min(left):.1%} to {max(left):.1%} over {_SEEDS} seeds), with fresh noise {probe.white_box.mean():.1%}: "
        "what lies between is owed to the noise alone."
    )
    moved = _compression(probe)
    if moved is not None:
        text += f" A random perturbation of the radius is {moved:.2f} times as long after one purification (L2)."
    return [Finding("note", "known noise", text)]


def _compression(probe: Probe) -> float | None:
    """E |P(x + d) - P(x)| / |d| over random d of the radius, the noise the same in both."""
    if not isinstance(probe.model, OffersPurification):
        return None
    moved = norms.random_start(
        probe.x, norm=probe.norm, eps=probe.eps, seed=probe.seed, index=probe.index, purpose="compression"
    )
    with torch.no_grad():
        ends = [probe.model.purifier(z, seed=probe.seed, index=probe.index) for z in (moved, probe.x)]
    length = (moved - probe.x).flatten(1).norm(dim=1)
    return float(((ends[0] - ends[1]).flatten(1).norm(dim=1) / length.clamp_min(1e-12)).mean())


def surrogate_models(probe: Probe, attacks: Mapping[str, Attack]) -> list[Finding]:
    """How far the models that images are transferred from agree with the defence; notes, and no alarms."""
    findings = []
    for name, attack in attacks.items():
        if not isinstance(attack, Transfer) or attack.source is probe.source:
            continue
        theirs, mine = (_gradient(probe, model, probe.x) for model in (attack.source, probe.model))
        cosine = "none" if theirs is None or mine is None else f"{_cosine(theirs, mine):.2f}"
        made = attack(probe.model, probe.x, probe.y, seed=probe.seed, index=probe.index)
        on_itself = replace(probe, model=attack.source).right(lambda *_, made=made, **__: made)
        on_defence = probe.right(lambda *_, made=made, **__: made)
        text = (
            f"The surrogate of {name}: its gradient has mean cosine {cosine} with the defence's own; its images leave "
            f"{on_itself.mean():.1%} of the probed right on the surrogate, and {on_defence.mean():.1%} on the defence."
        )
        findings.append(Finding("note", "surrogate", text))
    return findings


def _cosine(one: Tensor, two: Tensor) -> float:
    return float(F.cosine_similarity(one.flatten(1), two.flatten(1)).mean())


def _gradient(probe: Probe, model: Classifier, at: Tensor) -> Tensor | None:
    """The mean gradient of the margin, or None where there is none."""
    try:
        with PrivateStream(derive_seed(probe.seed, "probe"))(at.device):
            return expected_gradient(
                model,
                at,
                probe.y,
                cw_margin,
                seed=probe.seed,
                index=probe.index,
                passes=probe.passes,
                chunk=probe.chunk,
            ).grad
    except NoGradientError:
        return None
