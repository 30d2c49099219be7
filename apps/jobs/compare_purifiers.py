"""The work of `compare_purifiers.py`: every purifier in front of the same classifier, under the same attacks."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from recipes.compare_purifiers import GRIDS, TITLES, Budget, Comparison
from recipes.purification import PurifierChoice
from rp_attacks import APGD, PGD, Attack, Progress, Record, Report, Square, Transfer, evaluate
from rp_models.data import describe
from rp_models.training import ProgressBar, RunFolder
from rp_purify import Defended, NoPurification

from jobs import compare_report
from jobs.device import choose_device
from jobs.judged_images import judged_images
from jobs.networks import load_classifier
from jobs.purifier_networks import PurifierNetworks
from jobs.purifiers import build_purifier

ONE_SHOT = {"mae-pure": "mae_reconstruction", "maskdit-pure": "maskdit_denoise", "likelihood": "maskdit_denoise"}
"""Rows whose purifier takes one pass, by the kinds of iterative purifiers that they are sources of transfer for."""
CURVED = ("ste-tanh", "normalised")  # backward rules that differentiate the purifier's loss twice


class ComparisonJob:
    """One comparison: the networks are made, each row is evaluated, the table is written.

    Args:
        config: everything that determines the numbers.
        folder: of the run.
        device: where to compute.
        cache: folder of networks that other runs made.
        split: whose images are attacked; the validation split for tuning.
        root: folder of the data sets; None for the usual places.
    """

    def __init__(
        self,
        config: Comparison,
        folder: RunFolder,
        device: torch.device,
        cache: Path,
        *,
        split: str = "test",
        root: Path | None = None,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.info = describe(config.data)
        self.networks = PurifierNetworks(config, cache, device, root=root)
        images, self.index = judged_images(config.data, split, config.images, device=device, root=root)
        self.x, self.y = images.batch(slice(None))

    @classmethod
    def open(
        cls,
        config: Comparison,
        out: Path,
        *,
        resume: bool,
        device: str,
        cache: Path,
        split: str = "test",
        root: Path | None = None,
    ) -> "ComparisonJob":
        """Claim the folder.

        Raises:
            RunError: if the folder cannot be used.
            DataError: if there is no such device or no such images.
        """
        where = choose_device(device)
        return cls(config, RunFolder.open(out, asdict(config), resume=resume), where, cache, split=split, root=root)

    def run(self) -> None:
        """Make what is missing, evaluate every row, write table and figure."""
        with self.folder.timed("networks"):
            for row in self.config.chosen:
                self.with_files(getattr(self.config.rows, row))
        rows = {row: self.judge(row) for row in self.config.chosen}
        compare_report.write(self.folder, self.config, rows, self.networks.digests())

    def judge(self, row: str) -> dict[str, Any]:
        """The report of all attacks on one row's purifier and the classifier together; made now if it is not there."""
        file, choice, budget = f"results/{row}.json", getattr(self.config.rows, row), self.config.budget
        if not (self.folder.path / file).exists():
            with self.folder.timed(row):
                defence = self.defence(choice)
                report = self.evaluated(row, defence, attacks_on(defence, budget, self.one_shot(choice)), budget.passes)
            result = {"purifier": asdict(choice), "cells": cells(report), **report.to_json()}
            self.folder.write_json(file, result)
        found: dict[str, Any] = self.folder.read_json(file)
        return found

    def defence(self, choice: PurifierChoice) -> Defended:
        """The purifier in front of the classifier."""
        classifier = load_classifier(self.networks.path("classifier"), self.info).to(self.device)
        purifier = build_purifier(self.with_files(choice), self.info, self.device)
        return Defended(purifier, classifier).eval().requires_grad_(False)

    def with_files(self, choice: PurifierChoice) -> PurifierChoice:
        """The choice with the files of the networks that it uses, which are made now if they are not there."""
        mae = self.networks.path(choice.mae) if choice.kind.startswith("mae-") else ""
        return replace(choice, mae=mae, model=self.networks.path(choice.model))

    def one_shot(self, choice: PurifierChoice) -> Defended | None:
        """A purifier of one pass with the network of an iterative one: its exact gradient is a guide to the other's."""
        if choice.kind not in ONE_SHOT:
            return None
        return self.defence(
            replace(getattr(self.config.rows, ONE_SHOT[choice.kind]), mae=choice.mae, model=choice.model)
        )

    def evaluated(self, row: str, defence: Defended, attacks: Mapping[str, Attack], passes: int) -> Report:
        """The attacks on all images: every attack on each, so that each has an accuracy of its own.

        Args:
            row: name of the folder where finished blocks lie.
            defence: the whole system.
            attacks: by name.
            passes: that report, of a random purifier.
        """
        config = self.config
        bar, blocks = ProgressBar(), -(-len(self.x) // config.block_size)
        bar.start(TITLES.get(row, row), blocks * (len(attacks) + 2), 0)
        done = 0

        def watch(event: Progress) -> None:
            nonlocal done
            done += 1
            bar.advance(done, {f"{event.stage}, standing": event.standing / max(event.images, 1)})

        report = evaluate(
            defence,
            self.x,
            self.y,
            attacks,
            seed=config.seed,
            index=self.index,
            batch_size=config.batch_size,
            block_size=config.block_size,
            passes=1 if is_bare(defence) else passes,
            exhaustive=True,
            folder=self.folder.path / "evaluation" / row,
            source=defence.classifier,
            probes=config.probes,
            progress=watch,
        )
        bar.finish()
        return report

    def tune(self) -> None:
        """Try the grids on this job's images under a short attack, write and print what is best for each row."""
        tried = {}
        for row, grid in GRIDS.items():
            if row in self.config.chosen:
                tried[row] = [
                    self._try(row, dict(zip(grid, values, strict=True))) for values in product(*grid.values())
                ]
        compare_report.write_tuning(self.folder, self.config, tried, len(self.x))

    def _try(self, row: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracies of one setting: clean, and the worst of two short attacks."""
        name = re.sub(r"[^\w.]+", "_", "-".join([row, *map(str, changes.values())]))
        file = f"results/{name}.json"
        if not (self.folder.path / file).exists():
            defence = self.defence(replace(getattr(self.config.rows, row), **changes))
            report = self.evaluated(name, defence, short_attacks(defence, self.config.budget), passes=4)
            accuracy = {"clean": report.clean, "worst": report.worst, **report.threats[0].attacks}
            values = {key: report.verdict(record).per_query.estimate for key, record in accuracy.items()}
            self.folder.write_json(file, {"settings": dict(changes), "accuracy": values})
        found: dict[str, Any] = self.folder.read_json(file)
        return found


def attacks_on(defence: Defended, budget: Budget, one_shot: Defended | None = None) -> dict[str, Attack]:
    """The attacks on one row, cheap ones first: from the classifier alone, with every backward rule, and without.

    A rule that a purifier does not offer is left out; without a purifier there is one rule, no average and no transfer.

    Args:
        defence: the whole system.
        budget: of the attacks.
        one_shot: from which images are transferred, attacked with its exact gradient.
    """
    rules = tuple(defence.gradients)
    bare = is_bare(defence)
    eot = 1 if bare else budget.eot
    pgd = PGD(eps=budget.eps, step_size=budget.pgd_step(budget.steps), steps=budget.steps, eot=eot, select="best")
    if bare:
        attacks: dict[str, Attack] = {"pgd-exact": pgd}
    else:
        attacks = {"transfer": Transfer(replace(pgd, eot=1, loss="cw"), defence.classifier)}
        attacks |= {"bpda": replace(pgd, grad="identity")} if "identity" in rules else {}
        attacks |= {"pgd-exact": pgd} if "exact" in rules else {}
        attacks |= {"one-shot": Transfer(pgd, one_shot)} if one_shot else {}
    attacks |= {f"apgd-{loss}": APGD(eps=budget.eps, steps=budget.steps, eot=eot, loss=loss) for loss in ("ce", "dlr")}
    passes = 1 if bare else budget.query_passes
    attacks["square"] = Square(eps=budget.eps, queries=budget.queries, passes=passes, rescale_schedule=True)
    steps = budget.curved_steps
    curved = replace(pgd, steps=steps, step_size=budget.pgd_step(steps), eot=budget.curved_eot)
    return attacks | {f"pgd-{rule}": replace(curved, grad=rule) for rule in CURVED if rule in rules}


def short_attacks(defence: Defended, budget: Budget) -> dict[str, Attack]:
    """Two cheap attacks by which settings are chosen: from the classifier alone, and with the identity as gradient."""
    pgd = PGD(eps=budget.eps, step_size=budget.eps / 4, steps=10, eot=2, select="best")
    transfer = Transfer(replace(pgd, eot=1, steps=20), defence.classifier)
    return {"transfer": transfer, "bpda": replace(pgd, grad="identity")}


def is_bare(defence: Defended) -> bool:
    """Whether the images reach the classifier as they are."""
    return isinstance(defence.purifier, NoPurification)


def cells(report: Report) -> dict[str, Any]:
    """The row's accuracies by column: three verdicts each, with counts and intervals."""
    (threat,) = report.threats
    records = {"clean": report.clean, "noise": threat.noise, **threat.attacks}
    records["autoattack-rand"] = _worse(threat.attacks["apgd-ce"], threat.attacks["apgd-dlr"])
    records["worst"] = threat.worst
    return {
        name: {"right": int(record.right.sum()), "of": record.right.size}
        | {key: interval._asdict() for key, interval in report.verdict(record)._asdict().items()}
        for name, record in records.items()
    }


def _worse(first: Record, second: Record) -> Record:
    """Image by image the record that its own selecting passes call worse."""
    return first.where(first.worse_than(second), second)
