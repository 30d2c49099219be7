"""How robust are a diffusion model's features by themselves? Linear probes, attacked honestly.

Fits linear probes on a frozen EDM diffusion model (trained now, or taken from the cache of train_dra.py), compares
their accuracy over the radius with classifiers after standard and adversarial training (Fig. 3b of the DRA paper), and
shows what a probe with fresh noise seems to resist, with and without expectation over its noise (Appendix C). Without
arguments: the embedded digits, a few minutes on two cores.

    uv run apps/probe.py
    uv run apps/probe.py --rivals standard at "noisy encoder" "fine-tuned encoder"
    uv run apps/probe.py --resume
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.probe import RECIPES, ProbeStudy


@dataclass(frozen=True, kw_only=True)
class Options:
    """How robust are a diffusion model's features by themselves? Linear probes, attacked honestly."""

    recipe: Literal["digits", "smoke"] = "digits"  # where the settings below start from
    out: Path | None = None  # the study's folder; by default runs/probe/RECIPE
    resume: bool = False  # go on with the study that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    cache: Path = Path("runs/cache")  # where trained diffusion models are kept for other runs
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    config: Annotated[ProbeStudy, tyro.conf.arg(name="")] = field(default_factory=ProbeStudy)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = cli.parse(Options, RECIPES)
    if options.dry_run:
        cli.print_json(asdict(options.config))
        return 0
    out = options.out or Path("runs") / "probe" / options.recipe
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.probe import ProbeJob

    return cli.guarded(
        lambda: ProbeJob.open(
            options.config,
            out,
            resume=options.resume,
            device=options.device,
            cache=options.cache,
            root=options.data_root,
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
