"""The job behind the tables of other norms, other attackers, other classifiers and other settings of the purifiers."""

import math
from dataclasses import asdict, replace
from typing import Any

from rp_attacks import APGD, FAB, PGD, Attack, CarliniWagner, DeepFool, RayS, Report, Square, Transfer
from rp_purify import Defended
from rp_purify.settings import PurifierSettings

from rp_experiments.compare_purifiers import ComparisonJob
from rp_experiments.papers.settings import AttackTable, Case, Family
from rp_experiments.purifier_attacks import is_bare, short_attacks
from rp_experiments.purifier_networks import PurifierNetworks
from rp_experiments.run import Run


class AttackTableJob:
    """One table: every case attacked by `rp_attacks.evaluate`, the worst candidate of each image counted."""

    def __init__(self, config: AttackTable, run: Run) -> None:
        self.config, self.surroundings, self.folder = config, run, run.folder
        self.jobs = {"": ComparisonJob(config.comparison, run)}

    def run(self) -> None:
        """All cases, then `result.json`."""
        rows = {case.name: self.judge(case) for case in self.config.cases}
        comparison = self.config.comparison
        self.folder.write_json(
            "result.json",
            {
                "setting": {
                    "data": comparison.data,
                    "split": "test",
                    "images": len(self.jobs[""].x),
                    "strength": asdict(self.config.strength),
                    "seed": comparison.seed,
                },
                "rows": rows,
                "networks": self.jobs[""].networks.digests(),
                "seconds": self.folder.seconds(),
            },
        )

    def judge(self, case: Case) -> dict[str, Any]:
        """The accuracies of one case, made now if they are not in the folder."""
        name = "".join(letter if letter.isalnum() else "_" for letter in case.name)
        file = f"results/{name}.json"
        if not (self.folder.path / file).exists():
            with self.folder.timed(case.name):
                job, defence, choice = self._defence(case)
                attacks: dict[str, Attack] = {}
                for family in case.families:
                    attacks |= self.attacks(family, defence)
                report = job.evaluated(name, defence, attacks, self.config.strength.passes)
            self.folder.write_json(file, {"purifier": asdict(choice), **accuracies(report)})
        found: dict[str, Any] = self.folder.read_json(file)
        return found

    def attacks(self, family: Family, defence: Defended) -> dict[str, Attack]:
        """The attacks of one family on one system, cheap ones first."""
        if family == "short":
            return short_attacks(defence, self.config.comparison.budget)
        if family == "black-box":
            return self._black_box(defence)
        strength, bare = self.config.strength, is_bare(defence)
        eps, eot = self.config.radius(family), 1 if bare else strength.eot
        options: dict[str, Any] = {"norm": family, "eps": eps, "steps": strength.steps}
        pgd = PGD(**options, step_size=2.5 * eps / strength.steps, eot=eot, select="best", l1_box=family == "l1")
        attacks: dict[str, Attack] = {}
        if not bare:
            attacks[f"transfer-{family}"] = Transfer(replace(pgd, eot=1, loss="cw"), defence.classifier)
        attacks[f"pgd-{family}"] = pgd
        if family != "l1":
            attacks |= {f"apgd-{loss}-{family}": APGD(**options, eot=eot, loss=loss) for loss in ("ce", "dlr")}
        if family == "l2":
            confidence, overshoot = (0.0, 0.02) if bare else (1.0, 0.1)
            attacks["cw-l2"] = CarliniWagner(
                eps=eps, search_steps=strength.search, steps=strength.search_steps, eot=eot, confidence=confidence
            )
            attacks["deepfool-l2"] = DeepFool(eps=eps, steps=strength.steps, eot=eot, overshoot=overshoot)
        return attacks

    def _black_box(self, defence: Defended) -> dict[str, Attack]:
        """FAB on the classifier alone, and two attacks that ask the whole system."""
        strength, eps = self.config.strength, self.config.radius("linf")
        passes = 1 if is_bare(defence) else strength.query_passes
        fab = FAB(eps=eps, targets=9, steps=strength.fab_steps)
        return {
            "fab": Transfer(fab, defence.classifier),
            "square": Square(eps=eps, queries=max(1, strength.queries // 5), passes=passes, rescale_schedule=True),
            "rays": RayS(eps=eps, queries=strength.queries, passes=passes),
        }

    def _defence(self, case: Case) -> tuple[ComparisonJob, Defended, PurifierSettings]:
        """The system of a case; its purifier keeps the networks that were made for the first classifier."""
        choice = replace(getattr(self.config.comparison.rows, case.row), **case.changes)
        job = self._job(case.classifier)
        return job, job.defence(self.jobs[""].with_files(choice)), choice

    def _job(self, classifier: str) -> ComparisonJob:
        """The comparison with one of the table's classifiers in place of its own."""
        if classifier not in self.jobs:
            settings = self.config.classifiers[classifier]
            other = replace(self.config.comparison, pretrain_classifier=settings, classifier="")
            path = PurifierNetworks(other, self.surroundings).path("classifier")
            config = replace(self.config.comparison, classifier=path)
            self.jobs[classifier] = ComparisonJob(config, self.surroundings)
        return self.jobs[classifier]


def accuracies(report: Report) -> dict[str, Any]:
    """Clean accuracy, and for each ball every attack's and the worst case's: of one query, with intervals."""
    balls = {}
    for threat in report.threats:
        cells = {name: report.verdict(record).per_query._asdict() for name, record in threat.attacks.items()}
        balls[threat.norm] = {
            "eps": threat.eps,
            "attacks": cells,
            "worst": report.verdict(threat.worst).per_query._asdict(),
            "right": threat.worst.right.mean(axis=1).tolist(),
        }
    return {
        "clean": report.verdict(report.clean).per_query._asdict(),
        "clean_right": report.clean.right.mean(axis=1).tolist(),
        "balls": balls,
        "findings": [finding._asdict() for finding in report.findings],
        "images": len(report.clean),
        "passes": report.passes,
        "seconds": math.ceil(report.seconds),
    }
