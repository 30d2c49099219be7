"""What `pretrain.py` can be told, kind by kind, and its recipes; importing this does not import torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from rp_experiments.cli import SharedOptions
from rp_experiments.recipes.pretrain_settings import (
    CLASSIFIER_RECIPES,
    EDM_RECIPES,
    MAE_RECIPES,
    MASKDIT_RECIPES,
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
)

if TYPE_CHECKING:
    Mae = str
    Edm = str
    MaskDit = str
    Classifier = str
else:
    Mae, Edm = Literal[tuple(MAE_RECIPES)], Literal[tuple(EDM_RECIPES)]
    MaskDit, Classifier = Literal[tuple(MASKDIT_RECIPES)], Literal[tuple(CLASSIFIER_RECIPES)]


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(SharedOptions):
    """What the options of all kinds have in common."""

    tensorboard: bool = False  # also write the metrics for TensorBoard, to tensorboard/ in the run's folder
    config: Any = None
    recipe: str = ""

    @property
    def name(self) -> str:
        """Kind and recipe."""
        return f"{self.kind}-{self.recipe}"  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class MaeOptions(PretrainOptions):
    """Train a masked autoencoder on a data set's training split."""

    kind: tyro.conf.Positional[Literal["mae"]] = "mae"  # what is trained; it comes first
    recipe: Mae = "digits"  # where the settings below start from
    config: Annotated[PretrainMae, tyro.conf.arg(name="")] = field(default_factory=PretrainMae)


@dataclass(frozen=True, kw_only=True)
class EdmOptions(PretrainOptions):
    """Train an EDM diffusion model, class-conditional or not, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["edm"]] = "edm"  # what is trained; it comes first
    recipe: Edm = "digits"  # where the settings below start from
    config: Annotated[PretrainEdm, tyro.conf.arg(name="")] = field(default_factory=PretrainEdm)


@dataclass(frozen=True, kw_only=True)
class MaskDitOptions(PretrainOptions):
    """Train a MaskDiT, masked and then unmasked, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["maskdit"]] = "maskdit"  # what is trained; it comes first
    recipe: MaskDit = "digits"  # where the settings below start from
    config: Annotated[PretrainMaskDit, tyro.conf.arg(name="")] = field(default_factory=PretrainMaskDit)


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(PretrainOptions):
    """Train a standard classifier, without an adversary, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["classifier"]] = "classifier"  # what is trained; it comes first
    recipe: Classifier = "digits"  # where the settings below start from
    config: Annotated[PretrainClassifier, tyro.conf.arg(name="")] = field(default_factory=PretrainClassifier)


class Kind(NamedTuple):
    """The options and recipes of one kind."""

    options: type[PretrainOptions]
    recipes: Mapping[str, Callable[[], Any]]


KINDS = {
    "mae": Kind(MaeOptions, MAE_RECIPES),
    "edm": Kind(EdmOptions, EDM_RECIPES),
    "maskdit": Kind(MaskDitOptions, MASKDIT_RECIPES),
    "classifier": Kind(ClassifierOptions, CLASSIFIER_RECIPES),
}
