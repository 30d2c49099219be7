"""The job behind the tables of other norms, other attackers, other classifiers and other settings of the purifiers."""

import math
from dataclasses import asdict, replace
from typing import Any

from rp_attacks import Attack, Report, suite
from rp_purify import Defended

from rp_experiments.compare_purifiers import ComparisonJob, is_bare
from rp_experiments.papers.settings import AttackTable, Case, Family, norm_of
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
        case = self.config.first_like(case)
        name = "".join(letter if letter.isalnum() else "_" for letter in case.name)

        def make() -> dict[str, Any]:
            families: dict[str, list[Family]] = {}  # by the purifier that meets them, which a norm may change
            for family in case.families:
                families.setdefault(repr(self.config.purifier(case, norm_of(family))), []).append(family)
            parts = [
                self._part("-".join([name, *of[:number]]), case, of) for number, of in enumerate(families.values())
            ]
            return joined(parts)

        found: dict[str, Any] = self.run.once(f"results/{name}.json", make, stage=case.name)
        return found

    def _part(self, name: str, case: Case, families: list[Family]) -> dict[str, Any]:
        """The accuracies under families of attacks that meet the same purifier."""
        job, choice = self._job(case.classifier), self.config.purifier(case, norm_of(families[0]))
        defence = job.defence(self.jobs[""].with_files(choice))  # with the networks made for the first classifier
        attacks: dict[str, Attack] = {}
        for family in families:
            attacks |= self.attacks(family, defence)
        return {"purifier": asdict(choice), **accuracies(job.evaluated(name, defence, attacks, self.config.passes))}

    def attacks(self, family: Family, defence: Defended) -> dict[str, Attack]:
        """The attacks of one family on one system, cheap ones first."""
        config, bare, source = self.config, is_bare(defence), defence.classifier
        classes, norm = self.jobs[""].info.num_classes, norm_of(family)
        if family == "short":
            return suite("purifier-quick", eps=config.comparison.budget.eps, classes=classes, source=source)
        known: dict[str, Any] = {"eps": config.radius(norm), "random": not bare, "classes": classes}
        known["budget"] = config.budget_in(norm)
        if family == "black-box":
            attacks = suite("blackbox", source=source, **known)
            del attacks["pgd-transfer"]  # not among the paper's three
            return attacks
        known["source"] = None if bare else source
        if family == "table-1":
            attacks = suite("purifier", alone=True, **known)
            return {name: attacks[name] for name in ("transfer", "pgd-exact") if name in attacks}
        return suite("gradient", norm=norm, **known)

    def _job(self, classifier: str) -> ComparisonJob:
        """The comparison with one of the table's classifiers in place of its own."""
        if classifier not in self.jobs:
            settings = self.config.classifiers[classifier]
            other = replace(self.config.comparison, pretrain_classifier=settings, classifier="")
            path = PurifierNetworks(other, self.run).path("classifier")
            self.jobs[classifier] = ComparisonJob(replace(self.config.comparison, classifier=path), self.run)
        return self.jobs[classifier]


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One case's accuracies: those of the first part, with the balls, findings and seconds of all."""
    first, *others = parts
    for other in others:
        balls = {norm: {**ball, "purifier": other["purifier"]} for norm, ball in other["balls"].items()}
        first = {**first, "balls": first["balls"] | balls, "findings": first["findings"] + other["findings"]}
        first["seconds"] += other["seconds"]
    return first


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
