"""Look inside the classifiers of a run of `train_dra.py`: one HTML page with the DRA paper's analyses.

uv run apps/analyze.py
uv run apps/analyze.py --run runs/my-run --sae-k 8 16
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rp_experiments import cli
from rp_experiments.recipes.analysis import Analysis


@dataclass(frozen=True, kw_only=True)
class Options:
    """Look inside the classifiers of a run of `train_dra.py`: one HTML page with the DRA paper's analyses."""

    out: Path | None = None  # the folder of page and figures; by default runs/analyze/NAME-OF-THE-RUN
    resume: bool = False  # go on with the analysis that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    config: Annotated[Analysis, tyro.conf.arg(name="")] = field(default_factory=Analysis)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = cli.parse_plain(Options)
    if options.dry_run:
        cli.print_json(asdict(options.config))
        return 0
    if not (Path(options.config.run) / "result.json").is_file():
        cli.fail(f"{options.config.run} holds no finished run of train_dra.py; name one with --run")
    out = options.out or Path("runs") / "analyze" / Path(options.config.run).name
    print(f"folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.analyze import AnalysisJob

    return cli.guarded(
        lambda: AnalysisJob.open(
            options.config, out, resume=options.resume, device=options.device, root=options.data_root
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
