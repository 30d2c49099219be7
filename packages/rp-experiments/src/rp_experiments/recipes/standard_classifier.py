"""Data sets whose standard classifier a job trains itself if none is named; importing this does not import torch."""

from collections.abc import Callable

from rp_experiments.recipes.pretrain_settings import CLASSIFIER_RECIPES, PretrainClassifier

STANDARD: dict[str, Callable[[], PretrainClassifier]] = {
    "digits": CLASSIFIER_RECIPES["digits"],  # some seconds on a CPU core
    "fashion-mnist": CLASSIFIER_RECIPES["fashion-mnist"],  # about ten minutes
}


def check_named(given: str, option: str, data: str) -> None:
    """Raise a ValueError where no classifier is given by the option and none is soon trained."""
    if not given and data not in STANDARD:
        hint = f"; pretrain.py classifier --recipe {data} trains one" if data in CLASSIFIER_RECIPES else ""
        raise ValueError(f"{option} is missing: name the classifier's checkpoint{hint}")
