"""The work of `compare_purifiers.py`: every purifier in front of the same classifier, under the same attacks."""

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import rp_attacks
import torch
from rp_attacks import Attack, Report
from rp_attacks.defence import Classifier
from rp_attacks.record import Record
from rp_attacks.settings import SuiteName
from rp_models.arithmetic import Flops, without_onednn
from rp_models.data import describe
from rp_models.data.datasets import open_subset
from rp_models.loading import load_classifier
from rp_models.precision import full_precision, in_precision, use
from rp_models.training import RunError
from rp_purify import Defended, NoPurification
from rp_purify.build import build_purifier
from rp_purify.settings import PurifierSettings, uses
from rp_purify.settings.base import ROLES
from rp_purify.soap import SOAP
from torch import Tensor

from rp_experiments import authors_attacks
from rp_experiments.cautions import cautions, tell
from rp_experiments.evaluation_bar import EvaluationBar, blocks
from rp_experiments.purifier_networks import PurifierNetworks
from rp_experiments.recipes.compare_purifiers import GRIDS, PROTOCOLS, Budget, Comparison, title
from rp_experiments.reports import compare_report, eot_figure
from rp_experiments.results import judged
from rp_experiments.run import Run


def compare_purifiers(config: Comparison, run: Run, *, tune: bool = False, so_far: bool = False) -> None:
    """The whole comparison, or with `tune` a search for settings on the validation split; processes share the rows.

    With `so_far` only the table of the rows that are done in the run's folder, which another process may be at work in.
    """
    if so_far:
        write_so_far(run)
        return
    job = ComparisonJob(config, run, split="validation" if tune else "test")
    run.claim(config)
    if tune:
        job.tune()
    else:
        job.run_rows()


class ComparisonJob:
    """One comparison: the networks are made, each row is evaluated, the table is written."""

    def __init__(self, config: Comparison, run: Run, *, split: str = "test") -> None:
        use(config.compute)
        self.config, self.run = config, run
        self.info = describe(config.data)
        self.networks = PurifierNetworks(config, run)
        images, self.index = open_subset(config.data, split, config.images, device=run.device, root=run.root)
        self.x, self.y = images.batch(slice(None))

    def run_rows(self) -> None:
        """Make what is missing, evaluate every row, write table and figure."""
        self.make_networks()
        rows = self.config.chosen
        for row in self.run.share(rows):
            self.judge(row)
        if self.run.main:
            results = {row: self.judge(row) for row in rows}
            compare_report.write(self.run.alone(), self.config, results, self.networks.digests())

    def make_networks(self) -> None:
        """Make the networks of all rows that are not there yet, before several processes ask for them."""
        with self.run.timed("networks"):
            self.networks.path("classifier")
            for row in self.config.chosen:
                choice = self.with_files(self.config.purifier(row))
                if self.run.main:
                    networks = filter(None, (getattr(choice, role, "") for role in ROLES))
                    tell(title(row), cautions(choice, self.config.budget.eps, networks))

    def judge(self, row: str) -> dict[str, Any]:
        """The report of all attacks on one row's purifier and the classifier together; made now if it is not there."""
        choice, passes = self.config.purifier(row), self.config.budget.passes

        def attack() -> dict[str, Any]:
            defence = self.defence(choice)
            report = self.evaluated(row, defence, self.attacks("purifier", defence, **self.shorter(choice)), passes)
            found = cells(report) | self.as_published(row, defence)
            cost = {"latency": latency(defence, self.x), "operations": operations(defence, self.x)}
            known = {"purifier": asdict(choice), **cost, "cells": found}
            return {**known, "convergence": self.convergence(defence), **report.to_json()}

        found: dict[str, Any] = self.run.alone().once(f"results/{row}.json", attack, stage=row)
        return found

    def as_published(self, row: str, defence: Defended) -> dict[str, Any]:
        """The accuracy under the authors' own attack, as they count it, where there is one."""
        if row not in PROTOCOLS:
            return {}
        budget = self.config.budget
        protocol = PROTOCOLS[row].within(steps=budget.published_steps, eot=budget.published_eot)
        attacks = authors_attacks.attacks_of(protocol, defence, budget.eps)
        model = authors_attacks.judge_of(protocol, defence)
        report = self.evaluated(f"{row}-published", defence, attacks, protocol.passes, model=model)
        return {"published": authors_attacks.counted(report, protocol)}

    def convergence(self, defence: Defended) -> list[dict[str, float]]:
        """How many passes a gradient needs; nothing where all are the same."""
        config = self.config
        if is_deterministic(defence) or not config.convergence:
            return []
        return eot_figure.measure(
            defence, self.x, self.y, index=self.index, seed=config.seed, most=config.convergence,
            batch_size=config.batch_size,
        )  # fmt: skip

    def defence(self, choice: PurifierSettings) -> Defended:
        """The purifier in front of the classifier."""
        device, precision = self.run.device, self.config.compute.precision
        classifier = in_precision(load_classifier(self.networks.path("classifier"), self.info).to(device), precision)
        purifier = build_purifier(
            self.with_files(choice), self.info, device, classifier=classifier, precision=precision
        )
        return Defended(purifier, classifier).eval().requires_grad_(False)

    def with_files(self, choice: PurifierSettings) -> PurifierSettings:
        """The choice with the files of the networks that it uses, which are made now if they are not there."""
        roles = {name: getattr(choice, name) for name in uses(choice.kind) if name in ROLES}
        return replace(choice, **{name: self.networks.path(role) for name, role in roles.items() if role})

    def shorter(self, choice: PurifierSettings) -> dict[str, Any]:
        """Purifiers whose exact gradient is a guide to an iterative one's: of one pass, and with fewer steps."""
        guides = choice.guides(self.config.budget.surrogate_steps)
        return {name: self.defence(shorter) for name, shorter in guides.items()}

    def attacks(self, name: SuiteName, defence: Defended, **shorter: Any) -> dict[str, Attack]:
        """A suite of attacks with the comparison's budget; without a purifier no average, transfer or other rule."""
        budget, bare = self.config.budget, is_bare(defence)
        return rp_attacks.suite(
            name,
            eps=budget.eps,
            random=not is_deterministic(defence),
            classes=self.info.num_classes,
            defence=None if bare else defence,
            source=None if bare else defence.classifier,
            budget=budget.of_suite(),
            alone=self.config.exhaustive,
            **shorter,
        )

    def evaluated(
        self,
        row: str,
        defence: Defended,
        attacks: Mapping[str, Attack],
        passes: int,
        *,
        model: Classifier | None = None,
    ) -> Report:
        """The attacks on all images, in turn, or each on its own; on the defence, or on what stands for it."""
        config = self.config
        total = blocks(attacks, len(self.x), config.block_size)
        return rp_attacks.evaluate(
            model or defence,
            self.x,
            self.y,
            attacks,
            seed=config.seed,
            index=self.index,
            batch_size=config.batch_size,
            block_size=config.block_size,
            passes=1 if is_deterministic(defence) else passes,
            exhaustive=config.exhaustive,
            folder=self.run.path / "evaluation" / row,
            source=defence.classifier,
            probes=config.probes if model is None else 0,
            full_precision=None if model or config.compute.precision == "fp32" else full_precision,
            progress=EvaluationBar(self.run.progress, title(row), total),
        )

    def tune(self) -> None:
        """Try the grids on this job's images under a short attack, write and print what is best for each row."""
        self.make_networks()
        grids = {
            row: [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
            for row, grid in GRIDS.items()
            if row in self.config.chosen
        }
        for row, changes in self.run.share([(row, changes) for row, tried in grids.items() for changes in tried]):
            self.attempt(row, changes)
        if self.run.main:
            tried = {row: [self.attempt(row, changes) for changes in grid] for row, grid in grids.items()}
            compare_report.write_tuning(self.run.alone(), self.config, tried, len(self.x))

    def attempt(self, row: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracies of one setting: clean, and the worst of two short attacks; made now if they are not there."""
        name = re.sub(r"[^\w.]+", "_", "-".join([row, *map(str, changes.values())]))

        def attack() -> dict[str, Any]:
            defence = self.defence(replace(self.config.purifier(row), **changes))
            report = self.evaluated(name, defence, self.attacks("purifier-quick", defence), passes=4)
            accuracy = {"clean": report.clean, "worst": report.worst, **report.threats[0].attacks}
            values = {key: report.verdict(record).per_query.estimate for key, record in accuracy.items()}
            return {"settings": dict(changes), "accuracy": values}

        found: dict[str, Any] = self.run.alone().once(f"results/{name}.json", attack)
        return found


def write_so_far(run: Run) -> None:
    """The table of the rows that are done in the folder of a run that goes on or was stopped, by its own settings."""
    if not (run.path / "config.json").is_file():
        raise RunError(f"{run.path} holds no run of compare_purifiers.py; name its folder with --out")
    there = run.config = run.folder.read_json("config.json")
    config = Comparison(
        data=there["data"],
        only=tuple(there["only"]),
        compared=tuple(there["compared"]),
        exhaustive=there["exhaustive"],
        seed=there["seed"],
        budget=Budget(**there["budget"]),
        variants=there["variants"],
    )
    done = {row: f"results/{row}.json" for row in config.chosen if (run.path / f"results/{row}.json").is_file()}
    if not done:
        raise RunError(f"no row is done yet in {run.path}; wait for the first, or go on with --resume")
    rows = {row: run.folder.read_json(file) for row, file in done.items()}
    compare_report.write(run, config, rows, so_far=True)


def is_bare(defence: Defended) -> bool:
    """Whether the images reach the classifier as they are."""
    return isinstance(defence.purifier, NoPurification)


def is_deterministic(defence: Defended) -> bool:
    """Whether all passes are the same."""
    return isinstance(defence.purifier, NoPurification | SOAP)


@torch.no_grad()
def latency(defence: Defended, x: Tensor, *, repeats: int = 3) -> float:
    """Seconds for each image of one pass, the fastest of a few, of at most 100 images at a time."""
    seconds, x = [], x[:100]
    index = torch.arange(len(x), device=x.device)
    for seed in range(repeats):
        start = time.perf_counter()
        defence(x, seed=seed, index=index).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds) / len(x)


@torch.no_grad()
def operations(defence: Defended, x: Tensor) -> int:
    """Floating-point operations of one pass of one image: the cost that no other work on the machine changes."""
    with without_onednn(), Flops() as counted:
        defence(x[:1], seed=0, index=torch.zeros(1, dtype=torch.int64, device=x.device))
    return counted.total


def cells(report: Report) -> dict[str, Any]:
    """The row's accuracies by column, with counts and intervals."""
    (threat,) = report.threats
    records = {"clean": report.clean, "noise": threat.noise, **threat.attacks}
    records["autoattack-rand"] = _worse(threat.attacks["apgd-ce"], threat.attacks["apgd-dlr"])
    records["worst"] = threat.worst
    return {name: judged(report, record) for name, record in records.items()}


def _worse(first: Record, second: Record) -> Record:
    """Image by image the record that its own selecting passes call worse."""
    return first.where(first.worse_than(second), second)
