"""The stages of each app's run, from its settings alone: no data is read, no weights are made."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.stages import Estimate, Stage
from rp_experiments.run import Run

Stages = Iterable[Stage]
Make = Callable[..., Stages]


def estimate(job: str, config: Any, run: Run, *, card: Card, cards: int, **passed: Any) -> Estimate:
    """What a job of an app will take; ValueError for one whose cost nobody can count yet."""
    from rp_experiments.estimate import evaluations, trainings

    makers: dict[str, Make] = {
        "train_dra:train_dra": trainings.train_dra,
        "pretrain:pretrain": trainings.pretrain,
        "finetune_purifier:finetune_purifier": trainings.finetune,
        "generate:generate_images": evaluations.generate,
        "evaluate:evaluate": evaluations.evaluate,
        "compare_purifiers:compare_purifiers": evaluations.compare,
        "papers.reproduce:reproduce": evaluations.reproduce,
    }
    if job not in makers:
        known = ", ".join(name.partition(":")[0].rpartition(".")[2] for name in makers)
        raise ValueError(f"--estimate knows {known}; {job.partition(':')[0]} takes no time worth an estimate, or no "
                         "one has written how to count it")  # fmt: skip
    run = replace(run, processes=replace(run.processes, count=cards))
    stages = [stage for stage in makers[job](config, run, card, **passed) if stage.flop or stage.memory]
    return Estimate(stages=stages, card=card, cards=cards)
