"""One page of everything that `reproduce.py` has measured, beside the papers' numbers.

    uv run apps/report.py
    uv run apps/report.py --run runs/reproduce/digits runs/reproduce/fashion-mnist --out docs/report

Writes `index.html` (nothing outside it is needed), `claims.md` (every claim of both papers with its verdict) and one
JSON file a scale with all numbers.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from rp_experiments import cli


@dataclass(frozen=True, kw_only=True)
class Options:
    """One page of everything that `reproduce.py` has measured, beside the papers' numbers."""

    run: tuple[Path, ...] = (Path("runs/reproduce/digits"),)  # folders of reproduce.py, small scales first
    out: Path = Path("runs/report")  # where page and table are written
    results: Path | None = None  # where the JSON files are written; by default beside the page


def start() -> None:
    """Parse, then write, and say how many claims held."""
    options = cli.parse(Options)
    from rp_experiments.papers.items import ITEMS
    from rp_experiments.papers.report import Run, counts, in_words, write

    runs = [Run.read(folder) for folder in options.run]
    page = write(runs, options.out, options.results or options.out)
    for scale, papers in counts(list(ITEMS.values()), runs).items():
        for paper, verdicts in papers.items():
            print(f"{scale}, {paper}: {in_words(verdicts)}")
    print(f"page: {page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(cli.guarded(start))
