"""Train a generative model on a data set's training split: a masked autoencoder or an EDM diffusion model.

The kind comes first. Without further arguments: the embedded digits, a few minutes on two cores.

    uv run apps/pretrain.py mae
    uv run apps/pretrain.py edm --edm.steps 3000 --out runs/longer
    uv run apps/pretrain.py mae --resume
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import commandline
import tyro
from recipes.pretrain import EDM_RECIPES, MAE_RECIPES, MASKDIT_RECIPES, PretrainEdm, PretrainMae, PretrainMaskDit


@dataclass(frozen=True, kw_only=True)
class MaeOptions:
    """Train a masked autoencoder on a data set's training split."""

    kind: tyro.conf.Positional[Literal["mae"]] = "mae"  # what is trained; it comes first
    recipe: Literal["digits", "fashion-mnist", "smoke"] = "digits"  # where the settings below start from
    out: Path | None = None  # the run's folder; by default runs/pretrain/KIND-RECIPE
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    config: Annotated[PretrainMae, tyro.conf.arg(name="")] = field(default_factory=PretrainMae)


@dataclass(frozen=True, kw_only=True)
class EdmOptions:
    """Train an EDM diffusion model, class-conditional, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["edm"]] = "edm"  # what is trained; it comes first
    recipe: Literal["digits", "digits-unconditional", "fashion-mnist", "smoke"] = (
        "digits"  # where the settings below start from
    )
    out: Path | None = None  # the run's folder; by default runs/pretrain/KIND-RECIPE
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    config: Annotated[PretrainEdm, tyro.conf.arg(name="")] = field(default_factory=PretrainEdm)


@dataclass(frozen=True, kw_only=True)
class MaskDitOptions:
    """Train a MaskDiT, masked and then unmasked, on a data set's training split."""

    kind: tyro.conf.Positional[Literal["maskdit"]] = "maskdit"  # what is trained; it comes first
    recipe: Literal["digits", "fashion-mnist", "smoke"] = "digits"  # where the settings below start from
    out: Path | None = None  # the run's folder; by default runs/pretrain/KIND-RECIPE
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    config: Annotated[PretrainMaskDit, tyro.conf.arg(name="")] = field(default_factory=PretrainMaskDit)


Options: TypeAlias = MaeOptions | EdmOptions | MaskDitOptions
KINDS: dict[str, tuple[type[Options], Mapping[str, Callable[[], Any]]]] = {
    "mae": (MaeOptions, MAE_RECIPES),
    "edm": (EdmOptions, EDM_RECIPES),
    "maskdit": (MaskDitOptions, MASKDIT_RECIPES),
}


def main() -> int:
    """Parse, then train; torch is imported only after parsing."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind in ("-h", "--help"):
        print(f"{__doc__}\nAll options of a kind: pretrain.py mae --help, pretrain.py edm --help")
        return 0
    if kind not in KINDS:
        commandline.fail(f"the first argument must be {' or '.join(KINDS)}, got {kind!r}; see --help")
    options = commandline.parse(*KINDS[kind])
    if options.dry_run:
        commandline.print_json(asdict(options.config))
        return 0
    out = options.out or Path("runs") / "pretrain" / f"{kind}-{options.recipe}"
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    from jobs.pretrain import pretrain

    return commandline.guarded(lambda: pretrain(options.config, out, resume=options.resume, device=options.device))


if __name__ == "__main__":
    sys.exit(main())
