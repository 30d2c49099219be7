"""The page of `report.py`: for each item the paper's numbers beside ours, and what became of each claim."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rp_models.training import RunError, RunFolder

from rp_experiments import tables
from rp_experiments.pages import Picture, pixels, render
from rp_experiments.papers.claims import ELSEWHERE, VERDICTS, Verdict
from rp_experiments.papers.effects import Effect
from rp_experiments.papers.item import Item, Paper
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.power import POWER, seed_rows
from rp_experiments.papers.printed import paper_table
from rp_experiments.papers.verdicts import Decision, Judged, Record, command, decisions, hours, judged

PAPERS: dict[Paper, str] = {
    "MAE-Pure": "MAE-Pure: Semantic-Preserving Adversarial Purification",
    "DRA": "Expanding the Role of Diffusion Models for Robust Classifier Training",
}
_CLASSES = dict(zip(VERDICTS, ("held", "failed", "open", "elsewhere"), strict=True))
_WIDEST = 60.0  # points at the edges of the forest plots
_DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "imagenet": "ImageNet"}
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
    """Write page, `claims.md`, `power.md`, and beside or elsewhere one JSON file a scale; gives the page's path."""
    items, folder = list(ITEMS.values()), RunFolder(out)
    estimated = hours(results / "hours-paper.json")
    folder.write_text("claims.md", claims_markdown(items, runs, estimated))
    folder.write_text("power.md", power_markdown(items, runs, results / "train_dra-digits-seeds.json"))
    for run in runs:
        short = [{key: value for key, value in record.items() if key != "numbers"} for record in run.items.values()]
        text = json.dumps({"scale": run.scale, "items": short}, indent=1) + "\n"
        RunFolder(results).write_text(f"reproduce-{run.scale}.json", text)
    return folder.write_text("index.html", page(items, runs, estimated))


def page(items: Sequence[Item], runs: Sequence[Run], estimated: Mapping[str, float]) -> str:
    """The whole page, with everything in it."""
    shown: dict[Path, str] = {}  # figures that are on the page already, and where
    sections = {paper: [_section(item, runs, shown) for item in items if item.paper == paper] for paper in PAPERS}
    rows = claim_rows(items, runs)
    return render(
        "papers.html",
        title="Both papers, measured",
        papers=PAPERS,
        sections=sections,
        claims={paper: [row for row in rows if row.item.paper == paper and not row.apart] for paper in PAPERS},
        apart={paper: _apart(rows, paper, estimated) for paper in PAPERS},
        forest={paper: _forest(rows, paper) for paper in PAPERS},
        widest=_WIDEST,
        scales=[run.scale for run in runs],
        ran=[_what_ran(run, len(items)) for run in runs],
        counts=counts(items, runs),
        corrected=corrected(items, runs),
        classes=_CLASSES,
    )


def claim_rows(items: Sequence[Item], runs: Sequence[Run]) -> list[Judged]:
    """Every claim with its verdicts and evidence, by scale."""
    return judged(items, {run.scale: run.items for run in runs})


def _apart(rows: Sequence[Judged], paper: Paper, estimated: Mapping[str, float]) -> list[tables.Row]:
    """The claims of a paper for which no scale has the data: what each needs, and the command that makes it."""
    return [
        {
            "item": row.item.name,
            "claim": row.claim.text,
            "needs": " and ".join(_DATA.get(name, name) for name in row.claim.needs),
            "command": command(row.item),
            "GPU-hours (H100)": estimated.get(row.item.key),
        }
        for row in rows
        if row.item.paper == paper and row.apart
    ]


def _forest(rows: Sequence[Judged], paper: Paper) -> list[dict[str, Any]]:
    """The claims about differences of accuracies, with a bar for each difference and scale, in percent of the width."""
    return [
        {"row": row, "bars": bars}
        for row in rows
        if row.item.paper == paper
        and (
            bars := [
                {"scale": scale, "found": found, "effect": effect, **_bar(effect)}
                for scale, found in row.found.items()
                for effect in found.effects
                if effect.points
            ]
        )
    ]


def _bar(effect: Effect) -> dict[str, float]:
    """Where a bar begins and ends and its estimate lies, in percent of the width from left."""
    low, estimate, high = (
        50 + 50 * max(-1.0, min(1.0, value / _WIDEST)) for value in (effect.low, effect.estimate, effect.high)
    )
    return {"left": round(low, 1), "width": round(max(high - low, 0.4), 1), "at": round(estimate, 1)}


def claims_markdown(items: Sequence[Item], runs: Sequence[Run], estimated: Mapping[str, float]) -> str:
    """The claims and their verdicts, a table for each paper, with links to the page beside; other data's apart."""
    parts = ["# What became of the papers' claims", "<!-- written by apps/report.py -->"]
    rows, kept = claim_rows(items, runs), corrected(items, runs)
    for paper, title in PAPERS.items():
        listed: list[tables.Row] = [
            {"item": f"[{row.item.name}](index.html#{row.item.slug})", "claim": row.claim.text}
            | {run.scale: row.found[run.scale].words if run.scale in row.found else "not run" for run in runs}
            for row in rows
            if row.item.paper == paper and not row.apart
        ]
        found = (
            f"{scale}: {in_words(verdicts[paper])}; after correction {in_words(kept[scale][paper])}"
            for scale, verdicts in counts(items, runs).items()
        )
        parts += [f"## {title}", ".\n\n".join(found) + ".", tables.markdown(listed)]
        if apart := _apart(rows, paper, estimated):
            for line in apart:
                line |= {"command": f"`{line['command']}`"}  # type: ignore[operator]
            parts += [f"### {paper}: needs other data", tables.markdown(apart)]
    return "\n\n".join(parts) + "\n"


def power_markdown(items: Sequence[Item], runs: Sequence[Run], over_seeds: Path) -> str:
    """What would decide the open claims, the cheapest first; `over_seeds` is a file with one run of DRA a seed."""
    records = {run.scale: run.items for run in runs}
    found = decisions(judged(items, records), records)
    possible = [one for one in found if one.possible]
    return render(
        "power.md",
        power=POWER,
        possible=tables.markdown([_decision(one) for one in possible]) if possible else "None.",
        impossible=tables.markdown([_decision(one) for one in found if not one.possible]),
        seeds=tables.markdown(seed_rows(over_seeds, ITEMS["dra/table-2"].printed)) if over_seeds.is_file() else "",
    )


def _decision(one: Decision) -> tables.Row:
    """A line of the plan."""
    most = max(one.parts, key=lambda part: part.needed)
    return {
        "item": one.row.item.name,
        "claim": one.row.claim.text,
        "scale": one.scale,
        "measured, points": f"{most.effect.estimate:+.1f} [{most.effect.low:+.1f}, {most.effect.high:+.1f}]",
        "size, points": f"{most.size:.2f}, {'paper' if most.printed else 'measured'}",
        "images now": most.images,
        "images needed": one.images,
        "hours": f"{one.seconds / 3600:.1f}",
    }


def counts(items: Sequence[Item], runs: Sequence[Run]) -> Counts:
    """How many of the claims that were run held, did not, could not be tested, and need other data."""
    found: Counts = {run.scale: {paper: dict.fromkeys(VERDICTS, 0) for paper in PAPERS} for run in runs}
    for row in claim_rows(items, runs):
        for scale, one in row.found.items():
            found[scale][row.item.paper][one.verdict] += 1
    return found


def corrected(items: Sequence[Item], runs: Sequence[Run]) -> Counts:
    """How many claims are decided by a test whose p-value stays below 5% after Holm's correction."""
    found: Counts = {run.scale: {paper: dict.fromkeys(VERDICTS[:2], 0) for paper in PAPERS} for run in runs}
    for row in claim_rows(items, runs):
        for scale, one in row.found.items():
            if one.verdict in VERDICTS[:2] and not one.note:
                found[scale][row.item.paper][one.verdict] += 1
    return found


def in_words(verdicts: Mapping[Verdict, int]) -> str:
    """`3 held, 1 did not hold, 2 not testable at this scale`; other data's only where there are some."""
    return ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items() if number or verdict != ELSEWHERE)


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
