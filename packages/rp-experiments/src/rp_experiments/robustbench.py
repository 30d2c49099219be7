"""The work of `evaluate.py --suite robustbench`: the standard evaluation, beside what RobustBench publishes.

The images are RobustBench's: the first ones of CIFAR's test set in its order, and of ImageNet its 5,000 with the
preprocessing of the entry.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rp_attacks import AutoAttack, Report, suite
from rp_attacks.defence import LogProbabilities
from rp_attacks.problem import Attack
from rp_models.data import DatasetInfo
from rp_models.networks.ensemble import SoftmaxEnsemble
from rp_models.robustbench.images import benchmark_images
from torch import Tensor

from rp_experiments.autoattack_files import State, log_text, radius_text, read_state, write_model_info
from rp_experiments.evaluate import EvaluationJob
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.recipes.robustbench import THREATS, usual_radius
from rp_experiments.results import LIMITS, Limits, judged, points
from rp_experiments.robustbench_corruptions import judge_corrupted
from rp_experiments.run import Run
from rp_experiments.statistics import paired


def judge(config: Evaluation, run: Run) -> None:
    """Evaluate, leave `result.json`, `autoattack.log`, `model_info/` and the images, and print the report.

    Entries for corrupted images are judged on these.
    """
    if config.corrupted is not None:
        judge_corrupted(config, run)
        return
    job = StandardJob.of(config, run)
    report = job.shared_report(run)
    if report is not None:
        _leave(report, job, run.alone())


class StandardJob(EvaluationJob):
    """A classifier under the standard version of AutoAttack, on RobustBench's images."""

    def __init__(self, config: Evaluation, model: str, run: Run) -> None:
        super().__init__(config, model, run)
        if isinstance(self.model, SoftmaxEnsemble):
            self.model = LogProbabilities(self.model)
        path = config.robustbench.state
        self.state: State | None = None if path is None else read_state(path, len(self.x))

    def images(self, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """The first images in RobustBench's order."""
        config = self.config
        images = benchmark_images(config.data, config.sizes.images, preprocessing=config.preprocessing, root=run.root)
        index = torch.arange(len(images))
        x, y = images.batch(index)
        return x.to(run.device), y.to(run.device), index.to(run.device)

    def suite(self, info: DatasetInfo, shorter: Mapping[str, Any]) -> Mapping[str, Attack]:
        """The parts of AutoAttack's standard version; if so asked, in the library's own batches, by its own seed."""
        config = self.config
        if config.eps is None:
            self.eps = usual_radius(config.data, config.norm) or self.eps
        attacks = suite("autoattack", eps=self.eps, norm=config.norm, random=False, classes=info.num_classes)
        if not config.robustbench.exact:
            return attacks
        batch = config.robustbench.batch_size
        return {
            name: replace(attack, library_seed=config.seed, batch_size=batch)
            for name, attack in attacks.items()
            if isinstance(attack, AutoAttack)
        }

    @property
    def block_size(self) -> int:
        """All images, where a part of the attack fills its batches from all of them."""
        return len(self.x) if self.config.robustbench.exact else super().block_size


def _leave(report: Report, job: StandardJob, run: Run) -> None:
    """Write the files, and print table, comparison and findings."""
    config, (threat,) = job.config, report.threats
    compared = _compared(report, job)
    where = {"data": config.data, "split": job.split, "model": config.model or config.model_name}
    run.finish({**where, **compared, **report.to_json()})
    log = log_text(report.clean, threat.attacks, threat.images, threat.norm)
    run.folder.write_text("autoattack.log", log)
    place = run.path / "model_info" / config.data / THREATS[config.norm] / f"{config.model_name}.json"
    info = write_model_info(place, **_fields(report, job, threat.eps))
    print(f"{len(report.clean)} images of {config.data}, {config.model_name}, {threat.name}: AutoAttack standard")
    print(report)
    print(*_lines(compared, job), sep="\n")
    print(f"RobustBench's fields: {info}")


def _fields(report: Report, job: StandardJob, eps: float) -> dict[str, Any]:
    """What this evaluation knows of RobustBench's fields."""
    entry = job.config.entry
    known: dict[str, Any] = {"name": job.config.model_name, "dataset": job.config.data}
    if entry is not None:
        known |= {"additional_data": entry.extra_data, "number_forward_passes": entry.passes}
    return known | {
        "eps": radius_text(eps),
        "clean_acc": 100 * float(report.clean.right.mean()),
        "autoattack_acc": 100 * float(report.worst.right.mean()),
    }


def _compared(report: Report, job: StandardJob) -> dict[str, Any]:
    """The published figures and those of a state file, each with ours minus theirs."""
    found: dict[str, Any] = {}
    entry, eps = job.config.entry, report.threats[0].eps
    ours = {"clean": judged(report, report.clean), "autoattack": judged(report, report.worst)}
    if entry is not None and entry.radius is not None and abs(entry.radius - eps) < 1e-6:
        theirs = {"clean": entry.clean, "autoattack": entry.robust if entry.autoattack is None else entry.autoattack}
        found["published"] = entry.published
        found["minus_published"] = {name: _minus(ours[name], value / 100) for name, value in theirs.items()}
    if job.state is not None:
        right = report.worst.right[:, 0].astype(float).tolist()
        theirs_right = job.state.right.astype(float)
        found["state"] = {
            "attacks": job.state.attacks,
            "autoattack": float(theirs_right.mean()),
            "minus_state": paired(right, theirs_right.tolist()),
            "only_theirs_broke": np.flatnonzero((theirs_right == 0) & (np.array(right) == 1)).tolist(),
            "only_ours_broke": np.flatnonzero((theirs_right == 1) & (np.array(right) == 0)).tolist(),
        }
    return found


def _minus(accuracy: Limits, published: float) -> Limits:
    """Ours minus a figure of which nothing is known image by image: the limits are those of ours."""
    return {key: accuracy[key] - published for key in LIMITS}


def _lines(compared: dict[str, Any], job: StandardJob) -> list[str]:
    """The comparison in words."""
    lines = []
    if "published" in compared:
        known, minus = compared["published"], compared["minus_published"]
        least = "" if known["autoattack"] is None else f"; the lowest known of any attack is {known['robust']:.2f}"
        aa = known["robust"] if known["autoattack"] is None else known["autoattack"]
        lines.append(
            f"published: clean {known['clean']:.2f}, AutoAttack {aa:.2f}{least}; ours minus published, in points: "
            f"clean {points(minus['clean'])}, AutoAttack {points(minus['autoattack'])} (limits of our images alone)"
        )
    elif job.config.entry is not None:
        lines.append(f"published at eps {job.config.entry.eps}: no figure for this radius")
    if "state" in compared:
        state = compared["state"]
        lines.append(
            f"state file: AutoAttack {100 * state['autoattack']:.2f} on the same images; ours minus theirs, paired: "
            f"{points(state['minus_state'])}, p = {state['minus_state']['p']:.3g}; "
            f"{len(state['only_theirs_broke'])} images only they broke, {len(state['only_ours_broke'])} only we"
        )
    if isinstance(job.model, LogProbabilities):
        lines.append("the network gives probabilities, which RobustBench attacks as logits; here their logarithms are")
    return lines
