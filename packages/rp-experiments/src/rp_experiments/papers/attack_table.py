"""The job behind the tables of other norms, other attackers, other classifiers and other settings of the purifiers."""

import math
from dataclasses import asdict, replace
from typing import Any

from rp_attacks import Attack, Report, suite
from rp_purify import Defended
from rp_purify.settings import PurifierSettings

from rp_experiments.compare_purifiers import ComparisonJob, is_bare
from rp_experiments.papers.settings import AttackTable, Case, Family
from rp_experiments.purifier_networks import PurifierNetworks
from rp_experiments.results import judged
from rp_experiments.run import Run


def attack(config: AttackTable, run: Run) -> dict[str, Any]:
    """Every case attacked by `rp_attacks.evaluate`, the worst candidate of each image counted; gives `result.json`."""
    job = AttackTableJob(config, run)
    rows, comparison = {case.name: job.judge(case) for case in config.cases}, config.comparison
    setting = {"data": comparison.data, "split": "test", "images": len(job.jobs[""].x)}
    result = {
        "setting": {**setting, "budget": {**asdict(config.budget), "passes": config.passes}, "seed": comparison.seed},
        "rows": rows,
        "networks": job.jobs[""].networks.digests(),
        "seconds": run.folder.seconds(),
    }
    run.folder.write_json("result.json", result)
    return result


class AttackTableJob:
    """The cases of one table, in the folder of a run."""

    def __init__(self, config: AttackTable, run: Run) -> None:
        self.config, self.run = config, run
        self.jobs = {"": ComparisonJob(config.comparison, run)}

    def judge(self, case: Case) -> dict[str, Any]:
        """The accuracies of one case, made now if they are not in the folder."""
        name = "".join(letter if letter.isalnum() else "_" for letter in case.name)

        def make() -> dict[str, Any]:
            job, defence, choice = self._defence(case)
            attacks: dict[str, Attack] = {}
            for family in case.families:
                attacks |= self.attacks(family, defence)
            report = job.evaluated(name, defence, attacks, self.config.passes)
            return {"purifier": asdict(choice), **accuracies(report)}

        found: dict[str, Any] = self.run.once(f"results/{name}.json", make, stage=case.name)
        return found

    def attacks(self, family: Family, defence: Defended) -> dict[str, Attack]:
        """The attacks of one family on one system, cheap ones first."""
        config, bare, source = self.config, is_bare(defence), defence.classifier
        classes = self.jobs[""].info.num_classes
        if family == "short":
            return suite("purifier-quick", eps=config.comparison.budget.eps, classes=classes, source=source)
        known: dict[str, Any] = {"random": not bare, "classes": classes, "budget": config.budget}
        if family == "black-box":
            attacks = suite("blackbox", eps=config.radius("linf"), source=source, **known)
            del attacks["pgd-transfer"]  # not among the paper's three
            return attacks
        return suite("gradient", norm=family, eps=config.radius(family), source=None if bare else source, **known)

    def _defence(self, case: Case) -> tuple[ComparisonJob, Defended, PurifierSettings]:
        """The system of a case; its purifier keeps the networks that were made for the first classifier."""
        choice = replace(self.config.comparison.purifier(case.row), **case.changes)
        job = self._job(case.classifier)
        return job, job.defence(self.jobs[""].with_files(choice)), choice

    def _job(self, classifier: str) -> ComparisonJob:
        """The comparison with one of the table's classifiers in place of its own."""
        if classifier not in self.jobs:
            settings = self.config.classifiers[classifier]
            other = replace(self.config.comparison, pretrain_classifier=settings, classifier="")
            path = PurifierNetworks(other, self.run).path("classifier")
            self.jobs[classifier] = ComparisonJob(replace(self.config.comparison, classifier=path), self.run)
        return self.jobs[classifier]


def accuracies(report: Report) -> dict[str, Any]:
    """Clean accuracy, and for each ball every attack's and the worst case's."""
    return {
        "clean": judged(report, report.clean),
        "clean_right": report.clean.right.mean(axis=1).tolist(),
        "balls": {
            threat.norm: {
                "eps": threat.eps,
                "attacks": {name: judged(report, record) for name, record in threat.attacks.items()},
                "worst": judged(report, threat.worst),
                "right": threat.worst.right.mean(axis=1).tolist(),
            }
            for threat in report.threats
        },
        "findings": [finding._asdict() for finding in report.findings],
        "images": len(report.clean),
        "passes": report.passes,
        "seconds": math.ceil(report.seconds),
    }
