"""Data sets whose standard classifier a job trains itself if none is named; importing this does not import torch."""

from collections.abc import Callable

from rp_experiments.recipes import pretrain_classifier
from rp_experiments.recipes.pretrain_settings import PretrainClassifier

STANDARD: dict[str, Callable[[], PretrainClassifier]] = {
    "digits": pretrain_classifier.digits,  # some seconds on a CPU core
    "fashion-mnist": pretrain_classifier.fashion_mnist,  # about ten minutes
}


def why_missing(option: str, data: str) -> str:
    """What to say where no classifier is named and none is soon trained; "" where one is.

    Args:
        option: of the command line that names the classifier.
        data: the data set.
    """
    if data in STANDARD:
        return ""
    hint = f"pretrain.py classifier --recipe {data} trains one" if data in pretrain_classifier.RECIPES else ""
    return f"{option} is missing: name the classifier's checkpoint" + (f"; {hint}" if hint else "")


def check_named(given: str, option: str, data: str) -> None:
    """Raise a ValueError where no classifier is given and none is soon trained."""
    if not given and (missing := why_missing(option, data)):
        raise ValueError(missing)
