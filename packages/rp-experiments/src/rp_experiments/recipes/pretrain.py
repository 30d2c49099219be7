"""What `pretrain.py` can be told, kind by kind, and its recipes; importing this does not import torch."""

# mypy: disable-error-code="valid-type, misc"

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from rp_experiments.cli import SharedOptions, choice
from rp_experiments.recipes.pretrain_settings import (
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
    PretrainNim,
)
from rp_experiments.recipes.table import recipes_of


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(SharedOptions):
    """What the options of all kinds have in common."""

    tensorboard: bool = False  # also write the metrics for TensorBoard, to tensorboard/ in the run's folder
    config: Any = None
    recipe: str = ""
    passed = ("tensorboard",)

    @property
    def name(self) -> str:
        """Kind and recipe."""
        return f"{self.kind}-{self.recipe}"  # type: ignore[attr-defined]


class Kind(NamedTuple):
    """The options and recipes of one kind."""

    options: type[PretrainOptions]
    recipes: Mapping[str, Callable[[], Any]]


def _kind(name: str, settings: type, what: str) -> Kind:
    """What can be said of one kind."""
    recipes: Mapping[str, Callable[[], Any]] = recipes_of(settings)

    @dataclass(frozen=True, kw_only=True)
    class KindOptions(PretrainOptions):
        kind: tyro.conf.Positional[Literal[name]] = name  # what is trained; it comes first
        recipe: Annotated[str, choice(recipes)] = "digits"  # where the settings below start from
        config: Annotated[settings, tyro.conf.arg(name="")] = field(default_factory=settings)

    KindOptions.__doc__ = f"Train {what} on a data set's training split."
    return Kind(KindOptions, recipes)


KINDS = {
    "mae": _kind("mae", PretrainMae, "a masked autoencoder"),
    "nim": _kind("nim", PretrainNim, "an autoencoder of noisy images (NIM-MAE)"),
    "edm": _kind("edm", PretrainEdm, "an EDM diffusion model, class-conditional or not,"),
    "maskdit": _kind("maskdit", PretrainMaskDit, "a MaskDiT, masked and then unmasked,"),
    "classifier": _kind("classifier", PretrainClassifier, "a standard classifier, without an adversary,"),
}
