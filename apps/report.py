"""One page of everything that `reproduce.py` has measured, beside the papers' numbers.

    uv run apps/report.py
    uv run apps/report.py --run runs/reproduce/digits runs/reproduce/fashion-mnist --out docs/report

Writes `index.html` (nothing outside it is needed), `claims.md` (every claim of both papers with its verdict) and one
JSON file a scale with all numbers.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rp_experiments import cli
from rp_experiments.papers.registry import ITEMS


@dataclass(frozen=True, kw_only=True)
class Options:
    """One page of everything that `reproduce.py` has measured, beside the papers' numbers."""

    run: tuple[Path, ...] = (Path("runs/reproduce/digits"),)  # folders of reproduce.py, small scales first
    out: Path = Path("runs/report")  # where page and table are written
    results: Path | None = None  # where the JSON files are written; by default beside the page
    link: str = "docs/report/index.html"  # of the page, from where the claim table will stand


def main() -> int:
    """Parse, then write."""
    options = cli.parse_plain(Options)
    from rp_experiments.papers.report import Run, claims_markdown, counts, page

    runs = []
    for folder in options.run:
        found = {item.key: folder / "items" / f"{item.slug}.json" for item in ITEMS.values()}
        records = {key: json.loads(file.read_text(encoding="utf-8")) for key, file in found.items() if file.is_file()}
        if not records:
            cli.fail(f"{folder} holds no items; make some with reproduce.py")
        texts = {key: [claim["text"] for claim in record["claims"]] for key, record in records.items()}
        if any(found != [claim.text for claim in ITEMS[key].claims] for key, found in texts.items()):
            cli.fail(f"{folder} was judged by other claims; call reproduce.py again, it finds what is made")
        runs.append(Run(folder, records))
    items = list(ITEMS.values())
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "index.html"
    target.write_text(page(items, runs), encoding="utf-8")
    (options.out / "claims.md").write_text(claims_markdown(items, runs, options.link), encoding="utf-8")
    results = options.results or options.out
    results.mkdir(parents=True, exist_ok=True)
    for run in runs:
        short = [{key: record[key] for key in record if key != "numbers"} for record in run.items.values()]
        text = json.dumps({"scale": run.scale, "items": short}, indent=1) + "\n"
        (results / f"reproduce-{run.scale}.json").write_text(text, encoding="utf-8")
    for scale, papers in counts(items, runs).items():
        for paper, verdicts in papers.items():
            print(f"{scale}, {paper}: " + ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items()))
    print(f"page: {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
