"""Checks for robustness that comes from a hidden gradient, and not from the defence; each says what it saw in words."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rp_attacks.defence import Classifier, Randomised
from rp_attacks.model_checks import model_checks
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm
from rp_attacks.precision_check import sign_differences
from rp_attacks.probes import Probe, black_box, larger_radius, surrogates, zero_gradients
from rp_attacks.problem import Attack
from rp_attacks.record import Record
from rp_attacks.record_checks import kind, record_checks
from rp_attacks.report import GRAVITY, Finding, ThreatReport
from rp_attacks.search_checks import known_noise, masking_layers, more_iterations, surrogate_models, zero_at_start


def diagnose(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    *,
    clean: Record,
    threats: Sequence[ThreatReport],
    attacks: Mapping[str, Attack],
    seed: int,
    probes: int = 32,
    source: Classifier | None = None,
    random: bool = False,
    batch_size: int = 128,
    progress: Callable[[int, int], None] | None = None,
    differentiable: bool = True,
    full_precision: Callable[[], AbstractContextManager[object]] | None = None,
) -> list[Finding]:
    """Run every check of an evaluation; gives the findings, the gravest first.

    Args as in `evaluate`, and: `clean` and `threats` are what it saw; `random` and `differentiable` say what the model
    is; at most `batch_size` images are probed; `progress` is called with the number of checks done and of all.
    """
    findings = [finding for threat in threats for finding in record_checks(clean, threat, attacks)]
    findings += [] if differentiable else _no_gradient(attacks)
    findings += [_repeated(threat) for threat in threats if threat.same]
    first = slice(0, min(8 if random else 32, batch_size))
    findings += model_checks(model, x[first], y[first], index[first], attacks) if probes else []
    if random and not any(finding.check == "randomness" for finding in findings):
        findings.append(_randomness(model, clean))
    count = min(probes, batch_size)
    chosen = np.flatnonzero(clean.right.all(axis=1))[:count]
    if probes and len(chosen) == 0:
        text = "No image is right in every clean pass: the gradient could not be probed."
        findings.append(Finding("warning", "probes", text))

    def probed(threat: ThreatReport, norm: Norm, images: npt.NDArray[np.int64]) -> Probe:
        rows = torch.from_numpy(images).to(x.device)
        return Probe(
            model=model, x=x[rows], y=y[rows], index=index[rows], seed=derive_seed(seed, "diagnostics"),
            norm=norm, eps=threat.eps, passes=5 if random else 1, source=source,
            chunk=max(batch_size // max(len(images), 1), 1),
        )  # fmt: skip

    checks: list[Callable[[], list[Finding]]] = []
    for threat in threats:
        norm = threat.norm
        if threat.eps == 0 or norm == "l0" or len(chosen) == 0:  # in L0 no gradient ascends
            continue
        probe, mine = probed(threat, norm, chosen), {name: attacks[name] for name in threat.attacks if name in attacks}
        checks += _gradient_checks(probe, mine, full_precision)
        standing = np.flatnonzero(threat.worst.standing & clean.standing)[: min(count, 8 if random else count)]
        left = torch.from_numpy(threat.worst.right.mean(axis=1)[standing]).to(x)
        checks.append(partial(more_iterations, probed(threat, norm, standing), left, mine))
        checks += [partial(masking_layers, probe), partial(known_noise, probe)]
    for done, check in enumerate(checks, start=1):
        findings += check()
        if progress:
            progress(done, len(checks))
    return sorted(dict.fromkeys(findings), key=lambda finding: GRAVITY.index(finding.level))


def _gradient_checks(
    probe: Probe, attacks: Mapping[str, Attack], full_precision: Callable[[], AbstractContextManager[object]] | None
) -> list[Callable[[], list[Finding]]]:
    """Whether the gradient that attacks used is there, leads on, is the strongest, and is that of float32."""
    run = {getattr(attack, "grad", "exact") for attack in attacks.values()}
    checks = [partial(check, probe) for check in (zero_gradients, zero_at_start, larger_radius, black_box)]
    if full_precision is not None:
        checks.append(partial(sign_differences, probe, {"exact", *run}, full_precision))
    return [*checks, partial(surrogates, probe, run), partial(surrogate_models, probe, attacks)]


def _no_gradient(attacks: Mapping[str, Attack]) -> list[Finding]:
    """That attacks by the model's own gradient could not begin, for want of one."""
    blind = [name for name, attack in attacks.items() if kind(attack) in ("exact gradient", "own target order")]
    if not blind:
        return []
    text = f"The model's answers have no gradient (numpy, detached tensors): {', '.join(blind)} left the images as "
    text += "they are. Attack by a backward rule (BPDA), Square, RayS, SPSA or transfer, and trust none but those."
    return [Finding("alarm", "no gradient", text)]


def _repeated(threat: ThreatReport) -> Finding:
    """Which attacks were not run because another one is the same."""
    said = "; ".join(
        f"{name} is {same.other}, but for {same.differing:.1%} of the gradient's entries that it cuts to zero"
        for name, same in threat.same.items()
    )
    return Finding("note", "same attack", f"Run once in the {threat.name} ball: {said}.")


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
