"""What a job of each app will take, from its settings: no data is read, no weights are made."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rp_experiments.artifacts import in_order
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.pieces import Piece, of_comparison, of_run, of_sweep, pieces_of
from rp_experiments.estimate.stages import Estimate, Stage
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.run import Run

Make = Callable[..., Iterable[Stage]]


def estimate(job: str, config: Any, run: Run, *, card: Card, cards: int, **passed: Any) -> Estimate:
    """What a job of an app will take; ValueError for one whose cost nobody can count yet."""
    from rp_experiments.estimate import evaluations

    makers: dict[str, Make] = {
        "train_dra:train_dra": lambda config, run, card, **_: _counted(of_run(config), run, card),
        "sweep:run_sweep": lambda config, run, card, **_: _counted(of_sweep(config), run, card),
        "compare_purifiers:compare_purifiers": _compare,
        "papers.reproduce:reproduce": _reproduce,
        "pretrain:pretrain": _pretrain,
        "finetune_purifier:finetune_purifier": _finetune,
        "generate:generate_images": evaluations.generate,
        "evaluate:evaluate": evaluations.evaluate,
        "purify:purify": evaluations.purify,
    }
    if job not in makers:
        known = ", ".join(name.partition(":")[0].rpartition(".")[2] for name in makers)
        raise ValueError(f"--estimate knows {known}; {job.partition(':')[0]} takes no time worth an estimate, or no "
                         "one has written how to count it")  # fmt: skip
    run = replace(run, processes=replace(run.processes, count=cards))
    stages = [stage for stage in makers[job](config, run, card, **passed) if stage.flop or stage.memory]
    return Estimate(stages=stages, card=card, cards=cards)


def _counted(pieces: Iterable[Piece], run: Run, card: Card) -> Iterator[Stage]:
    from rp_experiments.estimate.parts import stages_of

    for piece in pieces:
        yield from (stage.under(piece.name) for stage in stages_of(piece, run, card))


def _pretrain(config: Pretrain, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    kind = type(config).__name__.removeprefix("Pretrain").lower()
    return _counted([Piece(f"pretrain {kind}", "pretrain", config)], run, card)


def _finetune(config: Any, run: Run, card: Card, **_: Any) -> Iterator[Stage]:
    """Networks are read from the files that the settings name."""
    from rp_experiments.estimate.finetuning import finetuning
    from rp_experiments.estimate.trainings import training_stage

    return (stage.under(config.product) for stage in finetuning(config, run, card, training_stage))


def _compare(config: Comparison, run: Run, card: Card, *, tune: bool = False, **_: Any) -> Iterator[Stage]:
    from rp_experiments.estimate.networks import as_given

    if tune:
        raise ValueError("--estimate does not know how long --tune takes; leave one of them out")
    return _counted(of_comparison(as_given(config)), run, card)


def _reproduce(items: Sequence[Any], run: Run, card: Card, *, plan: Any, **_: Any) -> Iterator[Stage]:
    """Each product that the items need."""
    for artifact in in_order(one for item in items for one in item.needed(plan)):
        yield from (stage.under(artifact.name) for stage in _counted(pieces_of(artifact), run, card))
