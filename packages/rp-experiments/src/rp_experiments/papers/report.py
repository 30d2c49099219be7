"""The page of `report.py`: for each item the paper's numbers beside ours, and what became of each claim."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rp_models.training import RunError, RunFolder

from rp_experiments import tables
from rp_experiments.pages import Picture, pixels, render
from rp_experiments.papers.claims import VERDICTS, Verdict
from rp_experiments.papers.item import Item, Paper
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.printed import paper_table

Record = Mapping[str, Any]  # what an item's file holds
PAPERS: dict[Paper, str] = {
    "MAE-Pure": "MAE-Pure: Semantic-Preserving Adversarial Purification",
    "DRA": "Expanding the Role of Diffusion Models for Robust Classifier Training",
}
_CLASSES = dict(zip(VERDICTS, ("held", "failed", "open"), strict=True))
Counts = dict[str, dict[Paper, dict[Verdict, int]]]  # by scale and paper


class Run(NamedTuple):
    """One folder of `reproduce.py`."""

    folder: Path  # with `items/` and `products/`
    items: Mapping[str, Record]  # by key

    @property
    def scale(self) -> str:
        """What it was made at."""
        return next((record["scale"] for record in self.items.values()), self.folder.name)

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """What a folder holds; RunError if that is nothing, or was judged by claims that are others now."""
        files = {item.key: folder / "items" / f"{item.slug}.json" for item in ITEMS.values()}
        found = {key: json.loads(file.read_text(encoding="utf-8")) for key, file in files.items() if file.is_file()}
        if not found:
            raise RunError(f"{folder} holds no items; make some with reproduce.py")
        for key, record in found.items():
            if [claim["text"] for claim in record["claims"]] != [claim.text for claim in ITEMS[key].claims]:
                raise RunError(f"{folder} was judged by other claims; call reproduce.py again, it finds what is made")
        return cls(folder, found)


def write(runs: Sequence[Run], out: Path, results: Path) -> Path:
    """Write `index.html` and `claims.md`, and beside or elsewhere one JSON file a scale; gives the page's path."""
    items, folder = list(ITEMS.values()), RunFolder(out)
    folder.write_text("claims.md", claims_markdown(items, runs))
    for run in runs:
        short = [{key: value for key, value in record.items() if key != "numbers"} for record in run.items.values()]
        text = json.dumps({"scale": run.scale, "items": short}, indent=1) + "\n"
        RunFolder(results).write_text(f"reproduce-{run.scale}.json", text)
    return folder.write_text("index.html", page(items, runs))


def page(items: Sequence[Item], runs: Sequence[Run]) -> str:
    """The whole page, with everything in it."""
    shown: dict[Path, str] = {}  # figures that are on the page already, and where
    sections = {paper: [_section(item, runs, shown) for item in items if item.paper == paper] for paper in PAPERS}
    found = {paper: [row for row in claim_rows(items, runs) if row["item"].paper == paper] for paper in PAPERS}
    return render(
        "papers.html",
        title="Both papers, measured",
        papers=PAPERS,
        sections=sections,
        claims=found,
        scales=[run.scale for run in runs],
        ran=[_what_ran(run, len(items)) for run in runs],
        counts=counts(items, runs),
        classes=_CLASSES,
    )


def claim_rows(items: Sequence[Item], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every claim with its verdicts and evidence, by scale."""
    return [
        {
            "item": item,
            "text": claim.text,
            "found": {run.scale: run.items[item.key]["claims"][number] for run in runs if item.key in run.items},
        }
        for item in items
        for number, claim in enumerate(item.claims)
    ]


def claims_markdown(items: Sequence[Item], runs: Sequence[Run]) -> str:
    """The claims and their verdicts, a table for each paper, with links to the page beside."""
    parts = ["# What became of the papers' claims", "<!-- written by apps/report.py -->"]
    for paper, title in PAPERS.items():
        rows: list[tables.Row] = [
            {"item": f"[{row['item'].name}](index.html#{row['item'].slug})", "claim": row["text"]}
            | {run.scale: row["found"].get(run.scale, {"verdict": "not run"})["verdict"] for run in runs}
            for row in claim_rows(items, runs)
            if row["item"].paper == paper
        ]
        found = (f"{scale}: {in_words(verdicts[paper])}" for scale, verdicts in counts(items, runs).items())
        parts += [f"## {title}", "; ".join(found) + ".", tables.markdown(rows)]
    return "\n\n".join(parts) + "\n"


def counts(items: Sequence[Item], runs: Sequence[Run]) -> Counts:
    """How many of the claims that were run held, did not, and could not be tested."""
    found: Counts = {run.scale: {paper: dict.fromkeys(VERDICTS, 0) for paper in PAPERS} for run in runs}
    for row in claim_rows(items, runs):
        for scale, judgement in row["found"].items():
            found[scale][row["item"].paper][judgement["verdict"]] += 1
    return found


def in_words(verdicts: Mapping[Verdict, int]) -> str:
    """`3 held, 1 did not hold, 2 not testable at this scale`."""
    return ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())


def _what_ran(run: Run, total: int) -> str:
    """Scale, number of items, machine and time."""
    products = {one["folder"]: one for record in run.items.values() for one in record["products"].values()}
    seconds = sum(one["seconds"] for one in products.values())
    devices = sorted({one["device"] for one in products.values()})
    made = sum(bool(record["products"]) for record in run.items.values())
    return (
        f"{run.scale}: {made} of {total} items from {len(products)} runs, {seconds / 60:.0f} minutes of computing on "
        f"{', '.join(devices) or 'no device'}"
    )


def _section(item: Item, runs: Sequence[Run], shown: dict[Path, str]) -> dict[str, Any]:
    """What the page shows of one item: the paper's tables, and what each scale found."""
    printed = [(f"{of.source}: {of.caption}", of.rows) for of in map(paper_table, item.printed)]
    return {
        "item": item,
        "printed": printed,
        "found": [_found(item, run, shown) for run in runs if item.key in run.items],
    }


def _found(item: Item, run: Run, shown: dict[Path, str]) -> dict[str, Any]:
    """What one scale says about an item."""
    record = run.items[item.key]
    products = record["products"]
    return {
        "scale": run.scale,
        "claims": record["claims"],
        "tables": [
            (table["title"], table["rows"], _measured_with(products[table["product"]]["setting"]))
            for table in record["tables"]
        ],
        "figures": [
            _figure(run.folder / products[figure["product"]]["folder"] / figure["file"], figure["caption"], item, shown)
            for figure in record["figures"]
        ],
        "settings": [_setting(one) for one in products.values()],
    }


def _figure(file: Path, caption: str, item: Item, shown: dict[Path, str]) -> Picture | tuple[str, str] | None:
    """An embedded picture, or where it is on the page already and its caption; None if it is not there."""
    if not file.is_file():
        return None
    place = shown.setdefault(file, item.slug)
    return pixels(file, caption) if place == item.slug else (place, caption)


def _setting(product: Record) -> str:
    """Where numbers come from, in a line."""
    environment = product["environment"]
    code = (environment.get("commit") or "unknown")[:12]
    return (
        f"{product['folder']} ({product['job']}): {flat(product['setting'])}; {product['seconds']:.0f} s on "
        f"{product['device']}; torch {environment['versions'].get('torch', '?')}, Python {environment['python']}, "
        f"commit {code}, {environment['started']}"
    )


def _measured_with(setting: Record) -> str:
    """What stands below a table: data, images, attack and its budget; the networks are among the details."""
    return flat({key: value for key, value in setting.items() if key != "models"})


def flat(setting: Record) -> str:
    """A setting in a line, its parts in brackets: `data digits, images 60, strength (steps 15, eot 2)`."""
    parts = []
    for key, value in setting.items():
        if isinstance(value, Mapping):
            parts.append(f"{key} ({flat(value)})")
        elif isinstance(value, list):
            parts.append(f"{key} {' '.join(map(tables.cell, value))}")
        elif value is not None:
            parts.append(f"{key.replace('_', ' ')} {tables.cell(value)}")
    return ", ".join(parts)
