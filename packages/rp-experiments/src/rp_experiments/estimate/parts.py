"""How each kind of piece is counted, by the name that `pieces` has for it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rp_experiments.estimate import looks, purifiers, trainings
from rp_experiments.estimate.cards import Card
from rp_experiments.estimate.finetuning import finetuning
from rp_experiments.estimate.networks import network_of
from rp_experiments.estimate.pieces import Piece
from rp_experiments.estimate.stages import Stage
from rp_experiments.run import Run


def stages_of(piece: Piece, run: Run, card: Card) -> list[Stage]:
    """The stages of a piece, the main one without a name."""
    return list(_KINDS[piece.kind](piece.config, run, card))


def _finetuned(config: Mapping[str, Any], run: Run, card: Card) -> Iterator[Stage]:
    """A network's fine-tuning, from one of the settings `start` and before a classifier."""
    model, front = network_of(config["start"]), network_of(config["front"])
    yield from finetuning(config["tuning"], run, card, trainings.training_stage, model=model, classifier=front)


_KINDS: dict[str, Callable[[Any, Run, Card], Iterator[Stage]]] = {
    "pretrain": trainings.pretrain,
    "drawn": trainings.drawn,
    "method": trainings.method,
    "finetuned": _finetuned,
    "row": purifiers.row,
    "case": purifiers.case,
    "quick": purifiers.quick,
    "probe": looks.probe,
    "analysis": looks.analysis,
    "representations": looks.representations,
    "views": looks.views,
    "timing": looks.timing,
    "descent": looks.descent,
}
