"""Purify images, and say what that changes: their pixels, an autoencoder's loss, a classifier's accuracy.

uv run apps/purify.py
uv run apps/purify.py --input attacked.npz --classifier standard.safetensors
uv run apps/purify.py --input a.png b.png --purifier.kind diffpure --purifier.model edm.safetensors
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rp_experiments import cli
from rp_experiments.recipes.purification import Purification


@dataclass(frozen=True, kw_only=True)
class Options:
    """Purify images, and say what that changes: their pixels, an autoencoder's loss, a classifier's accuracy."""

    out: Path | None = None  # the run's folder; by default runs/purify/WHAT-PURIFIER
    resume: bool = False  # go on with the purification that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    config: Annotated[Purification, tyro.conf.arg(name="")] = field(default_factory=Purification)


def main() -> int:
    """Parse, then purify; torch is imported only after parsing."""
    options = cli.parse_plain(Options)
    config = options.config
    if options.dry_run:
        cli.print_json(asdict(config))
        return 0
    what = Path(config.input[0]).stem if config.input else f"{config.data}-{config.split}"
    out = options.out or Path("runs") / "purify" / f"{what}-{config.purifier.kind}"
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.purify import PurifyJob

    return cli.guarded(
        lambda: PurifyJob.open(config, out, resume=options.resume, device=options.device, root=options.data_root).run()
    )


if __name__ == "__main__":
    sys.exit(main())
