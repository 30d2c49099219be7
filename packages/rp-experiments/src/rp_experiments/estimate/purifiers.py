"""The stages that attack purifiers: rows of a comparison and cases of a table, by their own jobs' attacks."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rp_attacks.presets import OnMeanLogits
from rp_attacks.problem import Attack
from rp_models.data import describe
from rp_purify import Defended, PurifierSettings
from rp_purify.settings.base import ROLES
from torch import nn

from rp_experiments import authors_attacks
from rp_experiments.compare_purifiers import ComparisonJob, is_deterministic
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.networks import network_of
from rp_experiments.estimate.stages import Stage
from rp_experiments.estimate.steps import number_of
from rp_experiments.estimate.systems import PassCost, attacked, pass_cost, purifier_of, rules_of
from rp_experiments.papers.attack_table import AttackTableJob
from rp_experiments.papers.settings import AttackTable, Case, Family, norm_of
from rp_experiments.recipes.compare_purifiers import PROTOCOLS, Comparison
from rp_experiments.run import Run


class CountedComparison(ComparisonJob):
    """A comparison around networks without values: which attacks it runs, and what their passes take."""

    def __init__(self, config: Comparison) -> None:
        self.config, self.info = config, describe(config.data)
        self.front = network_of(config.pretrain_classifier)

    def parts(self, choice: PurifierSettings) -> tuple[nn.Module, ...]:
        """The networks of a purifier, in its own order."""
        roles = (getattr(choice, name, "") for name in ROLES)
        return tuple(network_of(getattr(self.config, f"pretrain_{role}")) for role in roles if role)

    def defence(self, choice: PurifierSettings) -> Defended:
        """The purifier in front of the classifier."""
        purifier = purifier_of(choice, self.info, self.parts(choice), self.front)
        return Defended(purifier, self.front).eval().requires_grad_(False)

    def cost(self, choice: PurifierSettings, attacks: Mapping[str, Attack]) -> PassCost:
        """What a pass through a purifier takes, and through each backward rule that attacks use."""
        purifier = None if choice.kind == "none" else choice
        return pass_cost(
            self.front, self.info, purifier=purifier, networks=self.parts(choice), rules=rules_of(attacks),
            batch=self.config.batch_size,
        )  # fmt: skip

    def stage(self, choice: PurifierSettings, defence: Defended, attacks: Mapping[str, Attack], passes: int) -> Stage:
        """The evaluation under some attacks."""
        images = number_of(self.info, "test", self.config.images)
        random = not is_deterministic(defence)
        cost = self.cost(choice, attacks)
        stage = attacked(cost, attacks, self.info, images=images, random=random, passes=passes)
        return replace(stage, precision=self.config.compute.precision)


class CountedTable(AttackTableJob):
    """An attack table around networks without values."""

    def __init__(self, config: AttackTable) -> None:
        self.config = config
        self.counted = {"": CountedComparison(config.comparison)}
        self.jobs = dict[str, ComparisonJob](self.counted)

    def of(self, classifier: str) -> CountedComparison:
        """The comparison with one of the table's classifiers."""
        if classifier not in self.counted:
            settings = self.config.classifiers[classifier]
            self.counted[classifier] = CountedComparison(replace(self.config.comparison, pretrain_classifier=settings))
        return self.counted[classifier]

    def stage(self, case: Case, family: Family) -> Stage:
        """A case under one family of attacks."""
        job, choice = self.of(case.classifier), self.config.purifier(case, norm_of(family))
        defence = job.defence(choice)
        return job.stage(choice, defence, self.attacks(family, defence), self.config.passes)


def row(config: Comparison, run: Run, card: Card) -> Iterator[Stage]:
    """The only row of a comparison: the suite, and its authors' own attack."""
    del run, card
    job, (name,), passes = CountedComparison(config), config.chosen, config.budget.passes
    choice = config.purifier(name)
    defence = job.defence(choice)
    stage = job.stage(choice, defence, job.attacks("purifier", defence, **job.shorter(choice)), passes)
    yield stage if name not in PROTOCOLS else joined([stage, _as_published(job, name, choice, defence)])


def quick(config: Comparison, run: Run, card: Card) -> Iterator[Stage]:
    """The only row of a comparison under the two short attacks that choose settings; see `ComparisonJob.attempt`."""
    del run, card
    job, (name,) = CountedComparison(config), config.chosen
    choice = config.purifier(name)
    defence = job.defence(choice)
    yield job.stage(choice, defence, job.attacks("purifier-quick", defence), 4)


def _as_published(job: CountedComparison, row: str, choice: PurifierSettings, defence: Defended) -> Stage:
    """The authors' attack; what attacks the mean of several passes makes all of them each time."""
    budget = job.config.budget
    protocol = PROTOCOLS[row].within(steps=budget.published_steps, eot=budget.published_eot)
    attacks = authors_attacks.attacks_of(protocol, defence, budget.eps)
    stage = job.stage(choice, defence, attacks, protocol.passes)
    averaged = protocol.judged > 1 and not any(isinstance(attack, OnMeanLogits) for attack in attacks.values())
    return replace(stage, flop=stage.flop * (protocol.judged if averaged else 1))


def case(config: AttackTable, run: Run, card: Card) -> Iterator[Stage]:
    """The only case of an attack table."""
    del run, card
    table, (one,) = CountedTable(config), config.cases
    yield joined([table.stage(one, family) for family in one.families])


def joined(stages: list[Stage]) -> Stage:
    """Stages of one system as one."""
    flop, memory = sum(stage.flop for stage in stages), max(stage.memory for stage in stages)
    notes = dict.fromkeys(stage.note for stage in stages)
    return replace(stages[0], flop=flop, memory=memory, note="; ".join(notes))
