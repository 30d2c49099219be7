"""Robust accuracy of a defence under a family of attacks: the worst case of every image, judged by fresh noise."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rp_attacks import norms
from rp_attacks.defence import Classifier, Randomised
from rp_attacks.diagnostics import Finding, diagnose
from rp_attacks.isolation import PrivateStream
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm
from rp_attacks.problem import Attack, check_positive, check_problem
from rp_attacks.record import Record, is_random, judge
from rp_attacks.report import Report, ThreatReport
from rp_attacks.store import Pixels, Store, fingerprint, from_pixels, on_byte_grid, to_pixels

RANDOM_PASSES = 20  # for a random defence; its all-of-N verdict needs at least 10


class Progress(NamedTuple):
    """One finished block of one stage."""

    stage: str
    """"clean", a noise control, or an attack's name."""
    block: int
    blocks: int
    seconds: float
    """Since the evaluation began."""
    standing: int
    """Images of the blocks done in this stage that are still right in some selecting pass."""
    images: int
    """Images of those blocks."""


def evaluate(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    index: Tensor | None = None,
    batch_size: int = 128,
    block_size: int = 128,
    passes: int | None = None,
    exhaustive: bool = False,
    pixels: Pixels = "float",
    folder: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    source: Classifier | None = None,
    probes: int = 32,
    level: float = 0.95,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Robust accuracy under the worst of several attacks, image by image, beside two controls.

    Attacks run in the given order (put cheap ones first), grouped by their ball (norm and radius). Only images that
    still stand go on: those that at least one selecting pass classifies rightly. The candidate kept for an image is the
    one that most selecting passes misclassify, and then the one of largest margin; what is reported comes from other,
    fresh passes. The clean image is in every ball, and so is a candidate too.

    Results do not depend on `batch_size` or on the number of processes, for deterministic models and for random ones
    that offer `with_noise`; library attacks share random numbers inside a block, hence `block_size`.

    Args:
        model: images to logits, in eval mode.
        x: images (n, c, h, w) in [0, 1].
        y: labels (n,).
        attacks: by name.
        seed: of attacks, controls and verdicts.
        index: int64 (n,), each image's number in its data set; by default 0, 1, 2, ...
        batch_size: images per model call.
        block_size: images per saved file, the unit of resuming and of sharing between processes.
        passes: verdict passes K; by default 1, or 20 where two passes of the model differ.
        exhaustive: run every attack on every image that is right when clean, for its own accuracy.
        pixels: "uint8" keeps and judges adversarial images that an image file can hold; x must be such images.
        folder: where blocks are saved, and an interrupted evaluation resumes.
        shard: (rank, processes): this process does every processes-th block; needs a folder. A last call with
            (0, 1) gathers them.
        source: an undefended classifier, from which the diagnostics try transfer.
        probes: images on which the diagnostics run; 0 for none.
        level: of the intervals.
        progress: called after every block.

    Returns:
        The report; `print` it for a table.

    Raises:
        ValueError: bad input, an attack that leaves its ball, or a folder of another problem.
    """
    index = _check(model, x, y, attacks, index, shard, folder)
    check_positive(batch_size=batch_size, block_size=block_size)
    few = slice(0, min(8, len(x)))
    random = isinstance(model, Randomised) or is_random(model, x[few], index=index[few])
    passes = passes or (RANDOM_PASSES if random else 1)
    problem = _describe(model, x, y, index, attacks, seed, block_size, passes, exhaustive, pixels)
    run = _Run(
        model=model,
        x=x,
        y=y,
        index=index,
        seed=seed,
        passes=passes,
        batch_size=batch_size,
        pixels=pixels,
        store=Store(folder, problem),
        blocks=[
            (number, slice(start, min(start + block_size, len(x))))
            for number, start in enumerate(range(0, len(x), block_size))
            if number % shard[1] == shard[0]
        ],
        progress=progress,
        began=time.perf_counter(),
    )
    clean, _ = run.control("clean", lambda part: x[part])
    balls: dict[tuple[Norm, float], dict[str, Attack]] = {}
    for name, attack in attacks.items():
        balls.setdefault((attack.norm, attack.eps), {})[name] = attack
    threats = tuple(_one_threat(run, clean, ball, group, exhaustive) for ball, group in balls.items())
    mine = np.concatenate([np.arange(part.start, part.stop) for _, part in run.blocks] or [np.arange(0)])
    findings: Sequence[Finding] = ()
    if probes and shard[1] == 1:
        findings = diagnose(
            model, x, y, index, clean=clean, threats=threats, attacks=attacks, seed=seed,
            probes=probes, source=source, random=random, batch_size=batch_size,
        )  # fmt: skip
    return Report(
        index=index.cpu().numpy()[mine],
        labels=y.cpu().numpy()[mine],
        clean=clean,
        threats=threats,
        findings=tuple(findings),
        passes=passes,
        random=random,
        level=level,
        problem=problem,
        seconds=time.perf_counter() - run.began,
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The fixed parts of one evaluation, and how a stage goes through its blocks."""

    model: Classifier
    x: Tensor
    y: Tensor
    index: Tensor
    seed: int
    passes: int
    batch_size: int
    pixels: Pixels
    store: Store
    blocks: list[tuple[int, slice]]
    progress: Callable[[Progress], None] | None
    began: float

    def control(self, name: str, make: Callable[[slice], Tensor]) -> tuple[Record, npt.NDArray[Any]]:
        """Judge images that no attack made."""
        everything = [np.ones(part.stop - part.start, bool) for _, part in self.blocks]
        return self._stage(name, "linf", lambda number, part, rows: make(part), everything)

    def attack(self, name: str, attack: Attack, standing: npt.NDArray[np.bool_]) -> tuple[Record, npt.NDArray[Any]]:
        """Run and judge one attack on the images that stand."""

        def make(number: int, part: slice, rows: Tensor) -> Tensor:
            x_adv = self.x[part].clone()
            stream = PrivateStream(derive_seed(self.seed, "stream", name, number))
            size = len(rows) if getattr(attack, "shares_randomness", False) else self.batch_size
            for chosen in rows.nonzero().flatten().split(max(size, 1)) if rows.any() else ():
                images, labels, index = (t[part][chosen] for t in (self.x, self.y, self.index))
                with stream(images.device):
                    made = attack(self.model, images, labels, seed=derive_seed(self.seed, "attack", name), index=index)
                _check_result(name, attack, made, images)
                x_adv[chosen] = made.detach().to(x_adv.dtype)
            return on_byte_grid(x_adv, self.x[part]) if self.pixels == "uint8" else x_adv

        sizes = [part.stop - part.start for _, part in self.blocks]
        return self._stage(name, attack.norm, make, np.split(standing, np.cumsum(sizes)[:-1]))

    def _stage(
        self,
        name: str,
        norm: Norm,
        make: Callable[[int, slice, Tensor], Tensor],
        chosen: list[npt.NDArray[np.bool_]],
    ) -> tuple[Record, npt.NDArray[Any]]:
        records, images, standing, seen = [], [], 0, 0
        for (number, part), rows in zip(self.blocks, chosen, strict=True):
            done = self.store.load(name, number)
            if done is None:
                done = self._one_block(number, part, norm, make, torch.from_numpy(rows).to(self.x.device))
                self.store.save(name, number, *done)
            records.append(done[0])
            images.append(done[1])
            standing, seen = standing + int(done[0].standing.sum()), seen + len(rows)
            if self.progress:
                now = time.perf_counter() - self.began
                self.progress(Progress(name, len(records), len(self.blocks), now, standing, seen))
        return Record.join(records), np.concatenate(images)

    def _one_block(
        self, number: int, part: slice, norm: Norm, make: Callable[[int, slice, Tensor], Tensor], rows: Tensor
    ) -> tuple[Record, npt.NDArray[Any]]:
        stored = to_pixels(make(number, part, rows), self.pixels)
        x, x_adv = self.x[part], from_pixels(stored).to(self.x)
        record = judge(
            self.model,
            x_adv,
            self.y[part],
            x=x,
            distance=norms.size(x_adv - x, norm),
            tried=rows,
            seed=derive_seed(self.seed, "verdict"),
            index=self.index[part],
            passes=self.passes,
            batch_size=self.batch_size,
        )
        return record, stored


def _one_threat(
    run: _Run, clean: Record, ball: tuple[Norm, float], attacks: Mapping[str, Attack], exhaustive: bool
) -> ThreatReport:
    norm, eps = ball
    noise, _ = run.control(f"noise-{norm}-{eps:.4g}", lambda part: _noise(run, part, norm, eps))
    worst = clean
    images = to_pixels(torch.cat([run.x[part] for _, part in run.blocks]), run.pixels)
    chosen = np.full(len(clean), "clean", dtype=object)
    records = {}
    for name, attack in attacks.items():
        standing = clean.standing if exhaustive else worst.standing
        records[name], made = run.attack(name, attack, standing)
        worse = records[name].worse_than(worst) & records[name].tried
        worst = records[name].where(worse, worst)
        images[worse], chosen[worse] = made[worse], name
    return ThreatReport(
        norm=norm,
        eps=eps,
        noise=noise,
        attacks=records,
        worst=worst,
        chosen=tuple(chosen),
        images=from_pixels(images),
    )


def _noise(run: _Run, part: slice, norm: Norm, eps: float) -> Tensor:
    x = run.x[part]
    noisy = norms.random_start(x, norm=norm, eps=eps, seed=run.seed, index=run.index[part], purpose="control")
    return on_byte_grid(noisy, x) if run.pixels == "uint8" else noisy


def _check(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    index: Tensor | None,
    shard: tuple[int, int],
    folder: Path | None,
) -> Tensor:
    """Refuse what would give a number without meaning; gives the image indices."""
    if not attacks:
        raise ValueError("attacks is empty: pass at least one, e.g. rp_attacks.suite('quick')")
    for name in attacks:
        if not re.fullmatch(r"[\w][\w.+-]*", name) or name == "clean" or name.startswith("noise-"):
            raise ValueError(
                f"attack name {name!r} cannot name a folder: use letters, digits, '-', '.', '+', and neither "
                "'clean' nor 'noise-...'"
            )
    for attack in attacks.values():
        index = check_problem(x, y, norm=attack.norm, eps=attack.eps, index=index)
    assert index is not None
    if y.is_floating_point():
        raise TypeError("y must be int64 labels; an accuracy needs hard ones")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be (rank, processes) with 0 <= rank < processes, got {shard}")
    if shard[1] > 1 and folder is None:
        raise ValueError("several processes share their blocks through a folder: pass one")
    _check_model(model, x)
    return index


def _check_model(model: Classifier, x: Tensor) -> None:
    """Refuse train mode, a wrong device, and probabilities in place of logits."""
    if isinstance(model, nn.Module):
        if model.training:
            raise ValueError("the model is in train mode, where an image's logits depend on its batch; call .eval()")
        parameter = next(model.parameters(), None)
        if parameter is not None and parameter.device != x.device:
            raise ValueError(f"the model is on {parameter.device} and x on {x.device}; move them to one device")
    with torch.no_grad(), PrivateStream(0)(x.device):
        logits = model(x[:8])
    if logits.dim() == 2 and (logits >= 0).all() and (logits.sum(dim=1) - 1).abs().max() < 1e-4:
        raise ValueError("the model gives probabilities (non-negative, sum 1); attacks need logits: leave softmax out")


def _check_result(name: str, attack: Attack, x_adv: Tensor, x: Tensor) -> None:
    """Refuse candidates outside the ball or the box: they would count as robust or as broken for no reason."""
    if x_adv.shape != x.shape or not torch.isfinite(x_adv).all():
        raise ValueError(f"attack {name!r} must give finite images of shape {tuple(x.shape)}")
    if x_adv.min() < 0 or x_adv.max() > 1:
        raise ValueError(f"attack {name!r} left [0, 1]")
    radius = norms.size(x_adv - x, attack.norm).max().item()
    if radius > attack.eps * (1 + 1e-4) + 1e-6:
        raise ValueError(f"attack {name!r} left its {attack.norm} ball: {radius:.6g} > eps {attack.eps:.6g}")


def _describe(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    attacks: Mapping[str, Attack],
    seed: int,
    block_size: int,
    passes: int,
    exhaustive: bool,
    pixels: Pixels,
) -> dict[str, Any]:
    """What makes an evaluation the same one: an interrupted run resumes only under the same description."""
    return {
        "model": _weights(model),
        "images": fingerprint(x),
        "labels": fingerprint(y),
        "index": fingerprint(index),
        "count": len(x),
        "attacks": {name: repr(attack) for name, attack in attacks.items()},
        "order": list(attacks),
        "seed": seed,
        "block_size": block_size,
        "passes": passes,
        "exhaustive": exhaustive,
        "pixels": pixels,
    }


def _weights(model: Classifier) -> str:
    """Type of the model and a hash of its weights, where it has any."""
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(model, nn.Module):
        for key, value in sorted(model.state_dict().items()):
            digest.update(key.encode() + fingerprint(value).encode())
    return f"{type(model).__qualname__}-{digest.hexdigest()}"
