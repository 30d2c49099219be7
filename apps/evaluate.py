"""Attack a classifier, defended or not, and report the accuracy that is left.

uv run apps/evaluate.py --model runs/train_dra/digits/checkpoints/dm-at+dra.safetensors --suite autoattack
uv run apps/evaluate.py --model standard.safetensors --suite purifier --defended --purifier.kind mae-pure
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import commandline
import tyro
from recipes.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Options:
    """Attack a classifier, defended or not, and report the accuracy that is left."""

    out: Path | None = None  # the run's folder; by default runs/evaluate/MODEL-SUITE
    resume: bool = False  # go on with the evaluation that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    config: Annotated[Evaluation, tyro.conf.arg(name="")] = field(default_factory=Evaluation)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = commandline.parse_plain(Options)
    if options.dry_run:
        commandline.print_json(asdict(options.config))
        return 0
    if not options.config.model:
        commandline.fail("--model is missing: name the classifier's checkpoint")
    name = f"{Path(options.config.model).stem}-{options.config.suite}"
    if options.config.defended:
        name += f"-{options.config.purifier.kind}"
    out = options.out or Path("runs") / "evaluate" / name
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    from jobs.evaluate import run

    return commandline.guarded(lambda: run(options.config, out, resume=options.resume, device=options.device))


if __name__ == "__main__":
    sys.exit(main())
