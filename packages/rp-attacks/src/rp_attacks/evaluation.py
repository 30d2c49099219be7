"""Robust accuracy of a defence under a family of attacks: the worst case of every image, judged by fresh noise.

Attacks are grouped by their ball (norm and radius). Only images that still stand go on: those that at least one
selecting pass classifies rightly. The candidate kept for an image is the one that most selecting passes misclassify,
and then the one of largest margin; what is reported comes from other, fresh passes. The clean image is in every ball,
and so is a candidate too.

Results do not depend on the batch size or on the number of processes, for deterministic models and for random ones that
offer `with_noise`; library attacks share random numbers inside a block, hence the block size.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rp_attacks.defence import Classifier
from rp_attacks.diagnostics import diagnose
from rp_attacks.economy import network_calls, same_attacks
from rp_attacks.memory import room
from rp_attacks.norms import AnyNorm
from rp_attacks.problem import Attack, check_positive
from rp_attacks.record import Record, is_random
from rp_attacks.report import Report, ThreatReport
from rp_attacks.runner import Progress, Settings, Stages
from rp_attacks.store import Pixels, Store, from_pixels, to_pixels, usual_block_size
from rp_attacks.validation import admit, check_shard, describe, plain
from rp_attacks.watch import Watcher, watched

RANDOM_PASSES = 20  # for a random defence; its all-of-N verdict needs at least 10


@torch.inference_mode(False)  # under which no gradient exists, and a test loop may have entered it
def evaluate(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    index: Tensor | None = None,
    batch_size: int = 128,
    block_size: int | None = None,
    passes: int | None = None,
    exhaustive: bool = False,
    pixels: Pixels = "float",
    folder: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    source: Classifier | None = None,
    probes: int = 32,
    full_precision: Callable[[], AbstractContextManager[object]] | None = None,
    level: float = 0.95,
    progress: Callable[[Progress], None] | None = None,
    watcher: Watcher | None = None,
) -> Report:
    """Robust accuracy under the worst of several attacks, image by image, beside two controls.

    Attacks run in the given order (put cheap ones first) on the images that still stand; the module has the rules.

    Args:
        model: images to logits, in eval mode.
        x: images (n, c, h, w) in [0, 1].
        y: labels (n,).
        attacks: by name.
        seed: of attacks, controls and verdicts.
        index: int64 (n,), each image's number in its data set; by default 0, 1, 2, ...
        batch_size, block_size, passes, exhaustive, pixels, level: see `Settings`.
        folder: where blocks are saved, and an interrupted evaluation resumes.
        shard: (rank, processes): this process does every processes-th block; needs a folder. A last call with
            (0, 1) gathers them. A process that gets no block reports on no image.
        source: an undefended classifier, from which the diagnostics try transfer.
        probes: images on which the diagnostics run; 0 for none.
        full_precision: a block inside which a model of lower precision computes in float32; its signs are compared.
        progress: called after every block, and after every check that the findings come from.
        watcher: sees every step of every attack (see `rp_attacks.watch.Step`).

    Returns:
        The report; `print` it for a table.

    Raises:
        ValueError: bad input, an attack that leaves its ball, or a folder of another problem.
    """
    how = Settings(
        batch_size=batch_size, block_size=block_size, passes=passes, exhaustive=exhaustive, pixels=pixels, shard=shard,
        level=level,
    )  # fmt: skip
    stages = _stages(model, x, y, attacks, index, source, seed, how, folder, progress)
    with watched(watcher):
        report = _attacked(stages, attacks)
    if shard[1] > 1:  # a part of the images is not diagnosed
        return report
    return _diagnosed(report, stages, attacks, source=source, probes=probes, full_precision=full_precision)


def _stages(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    index: Tensor | None,
    source: Classifier | None,
    seed: int,
    how: Settings,
    folder: str | Path | None,
    progress: Callable[[Progress], None] | None,
) -> Stages:
    """The checked problem, with what the settings leave open filled in."""
    folder = None if folder is None else Path(folder)
    check_shard(how.shard, folder)
    block_size = how.block_size or usual_block_size(folder, len(x), how.shard[1])
    check_positive(batch_size=how.batch_size, block_size=block_size, passes=1 if how.passes is None else how.passes)
    x, y, index = plain(x), plain(y), None if index is None else plain(index)
    index = admit(model, x, y, attacks, index, pixels=how.pixels, others={"the source": source})
    random = is_random(model, x, index=index)
    passes = how.passes or (RANDOM_PASSES if random else 1)
    problem = describe(
        model, x, y, index, attacks,
        seed=seed, block_size=block_size, passes=passes, exhaustive=how.exhaustive, pixels=how.pixels,
    )  # fmt: skip
    return Stages(
        model=model, x=x, y=y, index=index, seed=seed, random=random, block_size=block_size, passes=passes, how=how,
        room=room(model, x, y, index),
        store=Store(folder, problem), progress=progress,
    )  # fmt: skip


def _attacked(stages: Stages, attacks: Mapping[str, Attack]) -> Report:
    """All controls and attacks, and no findings yet."""
    clean, rows = stages.clean(), stages.rows
    threats = tuple(_one_threat(stages, clean, ball, group) for ball, group in _by_ball(attacks).items())
    return Report(
        index=stages.index.cpu().numpy()[rows], labels=stages.y.cpu().numpy()[rows], clean=clean, threats=threats,
        findings=(), passes=stages.passes, random=stages.random, level=stages.how.level, problem=stages.store.problem,
        seconds=perf_counter() - stages.began, network=network_calls(stages.model, stages.x[:1], stages.index[:1]),
    )  # fmt: skip


def _diagnosed(report: Report, stages: Stages, attacks: Mapping[str, Attack], **options: Any) -> Report:
    """The report with what speaks against it."""

    def tell(done: int, checks: int) -> None:
        if stages.progress:
            seconds, standing = perf_counter() - stages.began, int(report.worst.standing.sum())
            stages.progress(Progress("findings", done, checks, seconds, standing, len(stages.x)))

    findings = diagnose(
        stages.model, stages.x, stages.y, stages.index, clean=report.clean, threats=report.threats, attacks=attacks,
        seed=stages.seed, random=stages.random, batch_size=stages.batch_size, progress=tell,
        differentiable=stages.store.problem["model"]["gradients"] is not None, **options,
    )  # fmt: skip
    return replace(report, findings=tuple(findings), seconds=perf_counter() - stages.began)


def _by_ball(attacks: Mapping[str, Attack]) -> dict[tuple[AnyNorm, float], dict[str, Attack]]:
    balls: dict[tuple[AnyNorm, float], dict[str, Attack]] = {}
    for name, attack in attacks.items():
        balls.setdefault((attack.norm, attack.eps), {})[name] = attack
    return balls


def _one_threat(
    stages: Stages, clean: Record, ball: tuple[AnyNorm, float], attacks: Mapping[str, Attack]
) -> ThreatReport:
    """All attacks of one ball, each on the images that the ones before it left standing."""
    (norm, eps), exhaustive = ball, stages.how.exhaustive
    noise = stages.noise(norm, eps)
    worst, chosen = clean, np.full(len(clean), "clean", dtype=object)
    images = to_pixels(stages.x[torch.from_numpy(stages.rows)], stages.how.pixels)
    same = {} if exhaustive else same_attacks(stages.model, stages.x, stages.y, stages.index, attacks)
    records: dict[str, Record] = {}
    for name, attack in attacks.items():
        if name in same:
            continue
        records[name], made = stages.attack(name, attack, clean if exhaustive else worst, worst=images)
        worse = records[name].worse_than(worst) & records[name].tried
        worst = records[name].where(worse, worst)
        images[worse], chosen[worse] = made[worse], name
    of = {name: records[same[name].other if name in same else name] for name in attacks}
    return ThreatReport(
        norm=norm, eps=eps, noise=noise, attacks=of, worst=worst, chosen=tuple(chosen), same=same,
        images=from_pixels(images),
    )  # fmt: skip
