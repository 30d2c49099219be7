"""`evaluate.py --suite beyond-lp`: one report of clean images, balls of three norms, other threats and shifted data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from types import MappingProxyType
from typing import Any

import torch
from rp_attacks import Report, suite
from rp_attacks.beyond_lp import Patch, StAdv, accuracy_under
from rp_attacks.defence import query
from rp_attacks.noise import derive_seed
from rp_attacks.problem import Attack
from rp_attacks.radii import NORMS, usual_radius
from rp_models.data import describe
from rp_models.data.datasets import DataError, open_subset
from rp_models.data.shifts import ALEXNET, SEVERITIES, corruptions, find_shift, kinds_of, mean_corruption_error
from torch import Tensor

from rp_experiments import tables
from rp_experiments.evaluate import EvaluationJob
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.results import LIMITS, Accuracy, counted, percent
from rp_experiments.run import Run

STEPS = 100  # of the patch attack and of StAdv


def beyond_lp(config: Evaluation, run: Run) -> None:
    """Attack, look at every shifted set that is at hand, and leave and print one report; processes share the work."""
    job = EvaluationJob.of(config, run)
    job.attacks = _three_balls(job)
    report = job.shared_report(run)
    pieces: dict[str, Callable[[], Any]] = {
        f"threats/{name}.json": partial(_threat, job, name) for name in ("patch", "stadv")
    }
    pieces["radii.json"] = job.curve
    sets = list(_sets(config, run))
    pieces |= {f"shifts/{name}.json": partial(_shift, job, name, run) for name in sets}
    run.progress.start("threats and shifts", len(pieces))
    for number, (file, work) in enumerate(pieces.items()):
        if number % run.processes.count == run.processes.rank:
            run.alone().once(file, work, stage="")
        run.progress.advance(number + 1)
    run.processes.wait()
    run.progress.finish()
    if report is not None:
        _leave(config, report, sets, job, run.alone())


def _three_balls(job: EvaluationJob) -> dict[str, Attack]:
    """PGD of 200 steps in each norm, at the radii that are usual for images of this size."""
    info = describe(job.config.data)
    shape, attacks = (info.channels, info.image_size, info.image_size), dict[str, Attack]()
    for norm in NORMS:
        eps = usual_radius(norm, shape=shape, linf=info.eps.get("linf", 8 / 255))
        own = suite(f"pgd200-eot20-{norm}", eps=eps, random=job.config.defended, classes=info.num_classes)
        attacks |= {f"{name}-{norm}": attack for name, attack in own.items()}
    return attacks


def _sets(config: Evaluation, run: Run) -> Iterator[str]:
    """The shifted sets that are named, each with all corruptions and severities; else those at hand."""
    for kind in config.shifts or kinds_of(config.data):
        parts = [f"{kind}/{part}/{level}" for part in corruptions(kind) for level in SEVERITIES] or [kind]
        for name in parts:
            try:
                open_subset(name, "test", 1, device=torch.device("cpu"), root=run.root)
            except DataError:
                if config.shifts:
                    raise
                continue
            yield name


def _threat(job: EvaluationJob, name: str) -> Accuracy:
    """Accuracy under a patch or a flow, of one pass."""
    side = max(round(0.15 * job.x.shape[-1]), 1)  # 2.4% of the image, as 5 of 32 pixels
    eot = 20 if job.config.defended else 1
    attack = Patch(side=side, steps=STEPS, eot=eot) if name == "patch" else StAdv(steps=STEPS, eot=eot)
    right = accuracy_under(
        attack, job.model, job.x, job.y, seed=job.config.seed, index=job.index, batch_size=job.config.batch_size
    )
    return counted(int(right.sum()), len(right))


def _shift(job: EvaluationJob, name: str, run: Run) -> Accuracy:
    """Accuracy on a shifted set, of one pass; of a set with few classes by the logits of these alone."""
    config, classes = job.config, find_shift(name).classes
    images, index = open_subset(name, "test", config.sizes.images, device=run.device, root=run.root)
    right = 0
    for rows in torch.arange(len(images), device=run.device).split(config.batch_size):
        x, y = images.batch(rows)
        with torch.no_grad():
            logits = query(job.model, x, seed=derive_seed(config.seed, name), index=index[rows])
        right += int((_among(logits, classes).argmax(dim=1) == y).sum())
    return counted(right, len(images))


def _among(logits: Tensor, classes: Sequence[int]) -> Tensor:
    return logits[:, list(classes)] if classes else logits


def _leave(config: Evaluation, report: Report, sets: Sequence[str], job: EvaluationJob, run: Run) -> None:
    """Write `result.json`, and print the rows."""
    found = {name: run.folder.read_json(f"shifts/{name}.json") for name in sets}
    threats = {name: run.folder.read_json(f"threats/{name}.json") for name in ("patch", "stadv")}
    radii = run.folder.read_json("radii.json")
    means = {kind: shift_mean(kind, found) for kind in dict.fromkeys(name.partition("/")[0] for name in sets)}
    run.finish(
        {
            "data": config.data,
            "split": job.split,
            "model": config.model or config.model_name,
            "balls": report.to_json(),
            "threats": threats,
            "radii": radii,
            "shifts": found,
            "means": means,
        }
    )
    records = {"clean": report.clean, **{f"{one.name}, worst case": one.worst for one in report.threats}}
    records["all three, worst case"] = report.worst
    images = f"{len(report.clean)} of {config.data}"
    rows = [_row(images, name, report.verdict(one).per_query._asdict()) for name, one in records.items()]
    rows += [_row("the same", name, one) for name, one in threats.items()]
    rows += [_row(f"the first {one['of']}", f"linf {one['eps']:.3g}, short PGD", one) for one in radii]
    for kind, mean in means.items():
        several = corruptions(kind)
        if several:
            said = f"{100 * mean['estimate']:.1f}" + (f", mCE {100 * mean['mCE']:.1f}" if "mCE" in mean else "")
            rows.append({"images": kind, "threat": f"mean of {mean['sets']} sets", "accuracy %": said})
        for name in (name for name in sets if name.partition("/")[0] == kind):
            one = found[name]
            rows.append(_row(f"{one['of']} of {name}", "none", one))
    print(f"{config.model_name}, purifier {config.purifier.kind if config.defended else 'none'}; 95% intervals")
    print(tables.text(rows))
    if any(describe(name).num_classes != describe(config.data).num_classes for name in sets):
        print("imagenet-a and imagenet-r: the largest of the logits of their own 200 classes")


def _row(images: str, threat: str, accuracy: Mapping[str, Any]) -> tables.Row:
    return {"images": images, "threat": threat, "accuracy %": percent(accuracy)}


def shift_mean(
    kind: str, found: Mapping[str, Accuracy], alexnet: Mapping[str, Mapping[str, float]] = MappingProxyType({})
) -> dict[str, float]:
    """The plain mean over a kind's sets, and the mCE of corrupted ImageNet where all its sets are there.

    `alexnet`: AlexNet's errors by kind, instead of the published ones of ImageNet-C. The limits are the means of the
    sets' own: right if a classifier errs on the same images in all of them, and wider than needed otherwise.
    """
    own = {name: one for name, one in found.items() if name.partition("/")[0] == kind}
    mean = {key: sum(one[key] for one in own.values()) / len(own) for key in LIMITS} | {"sets": len(own)}
    names, known = corruptions(kind), {"imagenet-c": ALEXNET} | dict(alexnet)
    if kind in known and len(own) == len(names) * len(SEVERITIES):
        levels = {part: [own[f"{kind}/{part}/{level}"]["estimate"] for level in SEVERITIES] for part in names}
        mean["mCE"] = mean_corruption_error({part: 1 - fmean(each) for part, each in levels.items()}, known[kind])
    return mean
