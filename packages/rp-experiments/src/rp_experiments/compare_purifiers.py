"""The work of `compare_purifiers.py`: every purifier in front of the same classifier, under the same attacks."""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rp_attacks import Attack, Progress, Report, evaluate
from rp_models.data import describe
from rp_models.data.datasets import open_subset
from rp_models.loading import load_classifier
from rp_models.training import ALONE, Processes, ProgressBar, RunFolder, init_distributed
from rp_models.training.devices import choose_device
from rp_models.training.progress import Progress as NoProgress
from rp_purify import Defended
from rp_purify.build import build_purifier
from rp_purify.settings import PurifierSettings, uses

from rp_experiments.purifier_attacks import attacks_on, cells, is_bare, short_attacks
from rp_experiments.purifier_networks import PurifierNetworks
from rp_experiments.recipes.compare_purifiers import GRIDS, TITLES, Comparison
from rp_experiments.reports import compare_report
from rp_experiments.side_by_side import side_by_side

"""Rows whose purifier takes one pass, by the kinds of iterative purifiers that they are sources of transfer for."""


def compare(
    config: Comparison,
    out: Path,
    *,
    resume: bool,
    device: str,
    cache: Path,
    root: Path | None = None,
    tune: bool = False,
    workers: int | None = None,
) -> None:
    """Do a whole comparison, together with the other processes if `torchrun` started several.

    Args:
        config: everything that determines the numbers.
        out: the run's folder.
        resume: go on with the run that is in the folder.
        device: where to compute.
        cache: folder of networks that other runs made.
        root: folder of the data sets; None for the usual places.
        tune: try settings on the validation split instead.
        workers: processes that work side by side on a CPU; None for one a core.

    Raises:
        RunError: if the folder cannot be used.
        DataError: if there is no such device, or no such images.
        CheckpointError: if a checkpoint is missing or does not fit.
    """
    where = choose_device(device)
    if where.type != "cpu":
        workers = 1
    with init_distributed(where) as processes:
        job = ComparisonJob.open(
            config,
            out,
            resume=resume,
            device=device,
            cache=cache,
            split="validation" if tune else "test",
            root=root,
            processes=processes,
        )
        act = job.tune if tune else job.run
        act(workers or torch.get_num_threads(), processes)


class ComparisonJob:
    """One comparison: the networks are made, each row is evaluated, the table is written.

    Args:
        config: everything that determines the numbers.
        folder: of the run.
        device: where to compute.
        cache: folder of networks that other runs made.
        split: whose images are attacked; the validation split for tuning.
        root: folder of the data sets; None for the usual places.
        helps: whether another process shows the progress and keeps the times.
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
        helps: bool = False,
    ) -> None:
        self.config, self.folder, self.device, self.helps = config, folder, device, helps
        self.place = Place(config, folder.path, str(device), cache, split, root)
        self.info = describe(config.data)
        self.networks = PurifierNetworks(config, cache, device, root=root)
        images, self.index = open_subset(config.data, split, config.images, device=device, root=root)
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
        processes: Processes = ALONE,
    ) -> "ComparisonJob":
        """Claim the folder; of several processes the first does that, and shows the progress.

        Raises:
            RunError: if the folder cannot be used.
            DataError: if there is no such device or no such images.
        """
        where = choose_device(device)
        folder = RunFolder.open(out, asdict(config), resume=resume, processes=processes)
        return cls(config, folder, where, cache, split=split, root=root, helps=not processes.main)

    def run(self, workers: int = 1, processes: Processes = ALONE) -> None:
        """Make what is missing, evaluate every row, write table and figure.

        Args:
            workers: processes that evaluate rows side by side, on a CPU.
            processes: that do the same work together, each a part of the rows.
        """
        with self._timed("networks"):
            processes.rank_zero_first(self.make_networks)
        rows = self.config.chosen
        work = {f"results/{row}.json": partial(ComparisonJob.judge, row=row) for row in rows}
        self._complete("rows", work, workers, processes)
        if processes.main:
            results = {row: self.judge(row) for row in rows}
            compare_report.write(self.folder, self.config, results, self.networks.digests())

    def _complete(self, title: str, work: "Mapping[str, Piece]", workers: int, processes: Processes) -> None:
        """See to it that others have made their part of these files; the rest is left to this process.

        Args:
            title: of the progress bar.
            work: what makes each file.
            workers: see `run`.
            processes: see `run`.
        """
        if processes.count > 1:
            for piece in list(work.values())[processes.rank :: processes.count]:
                piece(self)
            processes.wait()
            return
        missing = {
            file: partial(_help, self.place, piece)
            for file, piece in work.items()
            if not (self.folder.path / file).exists()
        }
        if workers > 1 and len(missing) > 1:
            side_by_side(title, missing, workers, finished=lambda file, s: self.folder.add_seconds(Path(file).stem, s))

    def make_networks(self) -> None:
        """Make the networks of all rows that are not there yet, before several processes ask for them."""
        self.networks.path("classifier")
        for row in self.config.chosen:
            self.with_files(getattr(self.config.rows, row))

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        return self.folder.timed(stage)

    def judge(self, row: str) -> dict[str, Any]:
        """The report of all attacks on one row's purifier and the classifier together; made now if it is not there."""
        file, choice, budget = f"results/{row}.json", getattr(self.config.rows, row), self.config.budget
        if not (self.folder.path / file).exists():
            with self._timed(row):
                defence = self.defence(choice)
                report = self.evaluated(row, defence, attacks_on(defence, budget, self.one_shot(choice)), budget.passes)
            result = {"purifier": asdict(choice), "cells": cells(report), **report.to_json()}
            self.folder.write_json(file, result)
        found: dict[str, Any] = self.folder.read_json(file)
        return found

    def defence(self, choice: PurifierSettings) -> Defended:
        """The purifier in front of the classifier."""
        classifier = load_classifier(self.networks.path("classifier"), self.info).to(self.device)
        purifier = build_purifier(self.with_files(choice), self.info, self.device)
        return Defended(purifier, classifier).eval().requires_grad_(False)

    def with_files(self, choice: PurifierSettings) -> PurifierSettings:
        """The choice with the files of the networks that it uses, which are made now if they are not there."""
        roles = {name: getattr(choice, name) for name in uses(choice.kind) if name in ("mae", "model")}
        return replace(choice, **{name: self.networks.path(role) for name, role in roles.items()})

    def one_shot(self, choice: PurifierSettings) -> Defended | None:
        """A purifier of one pass with the network of an iterative one: its exact gradient is a guide to the other's."""
        one_pass = choice.one_pass()
        return None if one_pass is None else self.defence(one_pass)

    def evaluated(self, row: str, defence: Defended, attacks: Mapping[str, Attack], passes: int) -> Report:
        """The attacks on all images: every attack on each, so that each has an accuracy of its own.

        Args:
            row: name of the folder where finished blocks lie.
            defence: the whole system.
            attacks: by name.
            passes: that report, of a random purifier.
        """
        config = self.config
        bar, blocks = NoProgress() if self.helps else ProgressBar(), -(-len(self.x) // config.block_size)
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

    def tune(self, workers: int = 1, processes: Processes = ALONE) -> None:
        """Try the grids on this job's images under a short attack, write and print what is best for each row.

        Args:
            workers: see `run`; here settings are tried side by side.
            processes: see `run`.
        """
        processes.rank_zero_first(self.make_networks)
        grids = {
            row: [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
            for row, grid in GRIDS.items()
            if row in self.config.chosen
        }
        settings = [(row, changes) for row, tried in grids.items() for changes in tried]
        work = {
            _file(row, changes): partial(ComparisonJob.attempt, row=row, changes=changes) for row, changes in settings
        }
        self._complete("settings", work, workers, processes)
        if processes.main:
            tried = {row: [self.attempt(row, changes) for changes in grid] for row, grid in grids.items()}
            compare_report.write_tuning(self.folder, self.config, tried, len(self.x))

    def attempt(self, row: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracies of one setting: clean, and the worst of two short attacks; made now if they are not there."""
        file = _file(row, changes)
        if not (self.folder.path / file).exists():
            defence = self.defence(replace(getattr(self.config.rows, row), **changes))
            report = self.evaluated(Path(file).stem, defence, short_attacks(defence, self.config.budget), passes=4)
            accuracy = {"clean": report.clean, "worst": report.worst, **report.threats[0].attacks}
            values = {key: report.verdict(record).per_query.estimate for key, record in accuracy.items()}
            self.folder.write_json(file, {"settings": dict(changes), "accuracy": values})
        found: dict[str, Any] = self.folder.read_json(file)
        return found


Piece = Callable[[ComparisonJob], Any]
"""What a job does by itself, or another process for it."""


class Place(NamedTuple):
    """What another process needs in order to help with a comparison."""

    config: Comparison
    folder: Path
    device: str
    cache: Path
    split: str
    root: Path | None

    def job(self) -> ComparisonJob:
        """The comparison, as a helper sees it."""
        device, folder = torch.device(self.device), RunFolder(self.folder)
        return ComparisonJob(self.config, folder, device, self.cache, split=self.split, root=self.root, helps=True)


def _help(place: Place, piece: Piece) -> None:
    """Do a piece of a comparison in a worker."""
    piece(place.job())


def _file(row: str, changes: Mapping[str, Any]) -> str:
    """Where the result of a setting lies."""
    name = re.sub(r"[^\w.]+", "_", "-".join([row, *map(str, changes.values())]))
    return f"results/{name}.json"
