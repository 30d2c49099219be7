"""The page of `report.py`: for each item the paper's numbers beside ours, and what became of each claim."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rp_experiments.papers.claims import VERDICTS, Verdict
from rp_experiments.papers.item import Item, Paper
from rp_experiments.papers.papers import PaperTable, paper_table
from rp_experiments.papers.report_style import PAGE

Record = Mapping[str, Any]  # what an item's file holds
PAPERS: dict[Paper, str] = {
    "MAE-Pure": "MAE-Pure: Semantic-Preserving Adversarial Purification",
    "DRA": "Expanding the Role of Diffusion Models for Robust Classifier Training",
}
_CLASSES = dict(zip(VERDICTS, ("held", "failed", "open"), strict=True))
_WIDEST = 1100  # pixels of an embedded figure


class Run:
    """One folder of `reproduce.py`.

    Args:
        folder: with `items/` and `products/`.
        items: JSON of each item by key.
    """

    def __init__(self, folder: Path, items: Mapping[str, Record]) -> None:
        self.folder, self.items = folder, items
        self.scale = next((record["scale"] for record in items.values()), folder.name)


def page(items: Sequence[Item], runs: Sequence[Run]) -> str:
    """The whole page, with everything in it.

    Args:
        items: all of them, in the papers' order.
        runs: what was found at each scale.
    """
    shown: dict[tuple[Path, str], str] = {}  # figures that are on the page already, and where
    sections = [_section(item, runs, shown) for item in items]
    links = "".join(f'<a href="#{_anchor(paper)}">{_text(paper)}</a>' for paper in PAPERS)
    parts = {paper: [one for item, one in zip(items, sections, strict=True) if item.paper == paper] for paper in PAPERS}
    body = "\n".join(
        f'<h2 class="paper" id="{_anchor(paper)}">{_text(title)}</h2>\n' + "\n".join(parts[paper])
        for paper, title in PAPERS.items()
    )
    return PAGE.format(links=links, summary=_summary(items, runs), body=body)


def claim_rows(items: Sequence[Item], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every claim with its verdicts and evidence, by scale."""
    rows = []
    for item in items:
        for number, claim in enumerate(item.claims):
            found = {run.scale: run.items[item.key]["claims"][number] for run in runs if item.key in run.items}
            rows.append({"item": item, "text": claim.text, "found": found})
    return rows


def claims_markdown(items: Sequence[Item], runs: Sequence[Run], link: str) -> str:
    """The claim tables for a README: one a paper, folded, under a line that counts.

    Args:
        items: all of them.
        runs: what was found at each scale.
        link: of the page, from where the tables will stand.
    """
    parts = []
    for paper in PAPERS:
        tallies = {
            scale: ", ".join(f"{n} {verdict}" for verdict, n in found[paper].items())
            for scale, found in counts(items, runs).items()
        }
        summary = "; ".join(f"{scale}: {tally}" for scale, tally in tallies.items())
        lines = ["| item | claim | " + " | ".join(tallies) + " |", "|---|---|" + "---|" * len(tallies)]
        for row in claim_rows([item for item in items if item.paper == paper], runs):
            item: Item = row["item"]
            cells = [row["found"][scale]["verdict"] if scale in row["found"] else "not run" for scale in tallies]
            lines.append(f"| [{_name(item)}]({link}#{item.slug}) | {row['text']} | " + " | ".join(cells) + " |")
        head = f"<details>\n<summary>{paper}: {summary}</summary>\n"
        parts.append("\n".join([head, *lines, "\n</details>\n"]))
    return "\n".join(parts)


def counts(items: Sequence[Item], runs: Sequence[Run]) -> dict[str, dict[Paper, dict[Verdict, int]]]:
    """By scale and paper, how many of the claims that were run held, did not, and could not be tested."""
    found: dict[str, dict[Paper, dict[Verdict, int]]] = {
        run.scale: {paper: dict.fromkeys(VERDICTS, 0) for paper in PAPERS} for run in runs
    }
    for row in claim_rows(items, runs):
        for scale, finding in row["found"].items():
            found[scale][row["item"].paper][finding["verdict"]] += 1
    return found


def _summary(items: Sequence[Item], runs: Sequence[Run]) -> str:
    """What was run, how many claims held, and the table of all of them."""
    tiles = "".join(
        f'<div class="tile"><b>{_text(paper)}, {_text(scale)}</b>'
        + "".join(f'<span class="{_CLASSES[verdict]}">{number} {verdict}</span>' for verdict, number in found.items())
        + "</div>"
        for scale, papers in counts(items, runs).items()
        for paper, found in papers.items()
    )
    tables = "".join(_claim_table(paper, items, runs) for paper in PAPERS)
    ran = "".join(f"<li>{_text(_what_ran(run, len(items)))}</li>" for run in runs)
    return f'<ul>{ran}</ul><div class="tiles">{tiles}</div>{tables}'


def _claim_table(paper: Paper, items: Sequence[Item], runs: Sequence[Run]) -> str:
    """Every claim of a paper with its verdicts, and a link to its item."""
    lines = []
    for row in claim_rows([item for item in items if item.paper == paper], runs):
        cells = "".join(_verdict_cell(row["found"].get(run.scale)) for run in runs)
        name = f'<a href="#{row["item"].slug}">{_text(_name(row["item"]))}</a>'
        lines.append(f"<tr><td>{name}</td>{cells}<td class=text>{_text(row['text'])}</td></tr>")
    scales = "".join(f"<th>{_text(run.scale)}</th>" for run in runs)
    head = f"<th>{_text(paper)}</th>{scales}<th class=text>claim</th>"
    return f'<div class="verdicts">{_wide(f"Claims of {paper}", head, "".join(lines))}</div>'


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


def _section(item: Item, runs: Sequence[Run], shown: dict[tuple[Path, str], str]) -> str:
    """One item: the paper's tables, ours, claims, figures, settings."""
    printed = "".join(_printed(paper_table(name)) for name in item.printed)
    ours = "".join(_found(item, run, shown) for run in runs if item.key in run.items)
    if not ours:
        ours = "<p>Not run yet.</p>"
    paper = f'<div class="half"><h4>Paper</h4>{printed}</div>' if printed else ""
    notes = f"<p>{_text(item.remark)}</p>" if item.remark else ""
    if item.contradictions:
        points = "".join(f"<li>{_text(one)}</li>" for one in item.contradictions)
        notes += f'<div class="contradictions"><b>In the paper itself</b><ul>{points}</ul></div>'
    return (
        f'<section id="{item.slug}"><h3>{_text(_name(item))}: {_text(item.title)}</h3>'
        f'<div class="sides">{paper}<div class="half">{ours}</div></div>{notes}</section>'
    )


def _found(item: Item, run: Run, shown: dict[tuple[Path, str], str]) -> str:
    """What one scale says about an item."""
    record = run.items[item.key]
    claims = "".join(
        f'<li><span class="{_CLASSES[claim["verdict"]]}">{claim["verdict"]}</span> {_text(claim["text"])} '
        f"<small>{_text(claim['evidence'])}</small></li>"
        for claim in record["claims"]
    )
    tables = "".join(
        _table(table["title"], table["rows"], _measured_with(record["products"][table["product"]]["setting"]))
        for table in record["tables"]
    )
    figures = "".join(_figure(figure, record, run, item, shown) for figure in record["figures"])
    settings = "".join(f"<li>{_text(_setting(one))}</li>" for one in record["products"].values())
    settings = f"<details><summary>settings and run folders</summary><ul>{settings}</ul></details>" if settings else ""
    return f"<h4>{_text(run.scale)}</h4><ul class=claims>{claims}</ul>{tables}{figures}{settings}"


def _setting(product: Record) -> str:
    """Where numbers come from, in a line."""
    environment = product["environment"]
    versions = environment["versions"]
    code = (environment.get("commit") or "unknown")[:12]
    return (
        f"{product['folder']} ({product['job']}): {flat(product['setting'])}; {product['seconds']:.0f} s on "
        f"{product['device']}; torch {versions.get('torch', '?')}, Python {environment['python']}, commit {code}, "
        f"{environment['started']}"
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
            parts.append(f"{key} {' '.join(_short(one) for one in value)}")
        elif value is not None:
            parts.append(f"{key.replace('_', ' ')} {_short(value)}")
    return ", ".join(parts)


def _printed(table: PaperTable) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return _wide(f"{table.source}: {table.caption}", head, rows)


def _table(title: str, rows: Sequence[Record], setting: str) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{_cell(row.get(c))}</td>" for c in columns) + "</tr>" for row in rows)
    return _wide(title, head, lines, setting)


def _wide(caption: str, head: str, rows: str, setting: str = "") -> str:
    """A table that scrolls sideways where the screen is narrow; below it what its numbers were measured with."""
    below = f'<p class="setting">{_text(setting)}</p>' if setting else ""
    return (
        f'<p class="caption">{_text(caption)}</p><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{below}</div>"
    )


def _figure(figure: Record, record: Record, run: Run, item: Item, shown: dict[tuple[Path, str], str]) -> str:
    """An embedded picture, or where it is on the page already."""
    folder = record["products"][figure["product"]]["folder"]
    path, caption = run.folder / folder / figure["file"], _text(figure["caption"])
    if not path.is_file():
        return ""
    place = shown.setdefault((run.folder / folder, figure["file"]), item.slug)
    if place != item.slug:
        return f'<p>Figure: <a href="#{place}">{caption}</a></p>'
    data = base64.b64encode(_small(path)).decode()
    return (
        f'<figure><img loading="lazy" alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _small(path: Path) -> bytes:
    """A PNG of few colours that is not wider than a page."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _verdict_cell(finding: Record | None) -> str:
    if finding is None:
        return "<td>not run</td>"
    short = finding["verdict"].removesuffix(" at this scale")
    badge = f'<span class="{_CLASSES[finding["verdict"]]}">{short}</span>'
    return f'<td title="{_text(finding["evidence"])}">{badge}</td>'


def _cell(value: Any) -> str:
    """A cell: an interval of a share in percent, a number with four digits, a dash for nothing."""
    if value is None or value != value:
        return "–"
    if isinstance(value, Mapping):
        return "{:.1f}&nbsp;[{:.0f},&nbsp;{:.0f}]".format(*(100 * value[key] for key in ("estimate", "low", "high")))
    return _text(_short(value))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(item: Item) -> str:
    """`Table 1`, from `dra/table-1`."""
    kind, _, number = item.key.partition("/")[2].partition("-")
    words = {"fig": "Fig.", "table": "Table", "theorem": "Theorem", "section": "Section", "appendix": "Appendix"}
    first, *rest = number.split("-")
    return " ".join([words[kind], first.upper() if kind in ("theorem", "appendix") else first, *_second(kind, rest)])


def _second(kind: str, rest: Iterable[str]) -> list[str]:
    """What follows the number: a second figure, or which part of a section."""
    return [f"and {word}" if kind == "fig" else f"({word})" for word in rest]


def _anchor(paper: str) -> str:
    return f"paper-{paper.lower()}"


def _text(value: str) -> str:
    return html.escape(value, quote=True)
