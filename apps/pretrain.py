"""Train a model on a data set's training split: a masked autoencoder, a diffusion model, or a standard classifier.

The kind comes first: mae, edm, maskdit or classifier. Without further arguments: the embedded digits, a few minutes on
two cores.

    uv run apps/pretrain.py mae
    uv run apps/pretrain.py edm --recipe fashion-mnist --out runs/mine
    uv run apps/pretrain.py classifier --data pictures/ --standard.steps 5000
    uv run apps/pretrain.py maskdit --resume
    uv run torchrun --nproc-per-node 8 apps/pretrain.py edm --recipe cifar10
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.pretrain import (
    CLASSIFIER_RECIPES,
    EDM_RECIPES,
    MAE_RECIPES,
    MASKDIT_RECIPES,
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the options of all kinds have in common."""

    out: Path | None = None  # the run's folder; by default runs/pretrain/KIND-RECIPE
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    root: Path | None = None  # folder of the catalogue's data sets; by default $RP_DATA, then ./data
    tensorboard: bool = False  # also write the metrics for TensorBoard, to tensorboard/ in the run's folder


@dataclass(frozen=True, kw_only=True)
class MaeOptions(Options):
    """Train a masked autoencoder on a data set's training split."""

    kind: tyro.conf.Positional[Literal["mae"]] = "mae"  # what is trained; it comes first
    recipe: Literal[
        "digits", "fashion-mnist", "fashion-mnist-gpu", "cifar10", "cifar100", "svhn", "imagenet", "smoke"
    ] = "digits"  # where the settings below start from
    config: Annotated[PretrainMae, tyro.conf.arg(name="")] = field(default_factory=PretrainMae)


@dataclass(frozen=True, kw_only=True)
class EdmOptions(Options):
    """Train an EDM diffusion model, class-conditional or not, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["edm"]] = "edm"  # what is trained; it comes first
    recipe: Literal[
        "digits", "digits-unconditional", "fashion-mnist", "fashion-mnist-gpu", "cifar10", "cifar100", "svhn", "smoke"
    ] = "digits"  # where the settings below start from
    config: Annotated[PretrainEdm, tyro.conf.arg(name="")] = field(default_factory=PretrainEdm)


@dataclass(frozen=True, kw_only=True)
class MaskDitOptions(Options):
    """Train a MaskDiT, masked and then unmasked, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["maskdit"]] = "maskdit"  # what is trained; it comes first
    recipe: Literal[
        "digits", "fashion-mnist", "fashion-mnist-gpu", "cifar10", "cifar100", "svhn", "imagenet", "smoke"
    ] = "digits"  # where the settings below start from
    config: Annotated[PretrainMaskDit, tyro.conf.arg(name="")] = field(default_factory=PretrainMaskDit)


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(Options):
    """Train a standard classifier, without an adversary, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["classifier"]] = "classifier"  # what is trained; it comes first
    recipe: Literal[
        "digits", "fashion-mnist", "fashion-mnist-gpu", "cifar10", "cifar100", "svhn", "imagenet", "smoke"
    ] = "digits"  # where the settings below start from
    config: Annotated[PretrainClassifier, tyro.conf.arg(name="")] = field(default_factory=PretrainClassifier)


KINDS: dict[str, tuple[type[Any], Mapping[str, Callable[[], Any]]]] = {
    "mae": (MaeOptions, MAE_RECIPES),
    "edm": (EdmOptions, EDM_RECIPES),
    "maskdit": (MaskDitOptions, MASKDIT_RECIPES),
    "classifier": (ClassifierOptions, CLASSIFIER_RECIPES),
}


def main() -> int:
    """Parse, then train; torch is imported only after parsing."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind in ("-h", "--help"):
        print(f"{__doc__}\nAll options of a kind: {', '.join(f'pretrain.py {name} --help' for name in KINDS)}")
        return 0
    if kind not in KINDS:
        cli.fail(f"the first argument must be one of {', '.join(KINDS)}, got {kind!r}; see --help")
    options = cli.parse(*KINDS[kind])
    if options.dry_run:
        cli.print_json(asdict(options.config))
        return 0
    out = options.out or Path("runs") / "pretrain" / f"{kind}-{options.recipe}"
    if cli.first_process():
        print(f"run folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.pretrain import pretrain

    return cli.guarded(
        lambda: pretrain(
            options.config,
            out,
            resume=options.resume,
            device=options.device,
            root=options.root,
            tensorboard=options.tensorboard,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
