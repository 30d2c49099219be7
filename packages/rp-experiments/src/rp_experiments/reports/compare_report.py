"""What a comparison of purifiers leaves for a reader: `result.json`, a page of Markdown, and a figure."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rp_attacks.intervals import paired_comparison

from rp_experiments import pages, tables
from rp_experiments.recipes.compare_purifiers import NETWORKS, NOTES, PROTOCOLS, TITLES, Budget, Comparison, title
from rp_experiments.recipes.published import CLAIMS
from rp_experiments.recipes.published import PURIFIERS as PAPER
from rp_experiments.recipes.table import read
from rp_experiments.reports.compare_figures import plot_pareto, plot_rows
from rp_experiments.reports.eot_figure import plot_eot_convergence
from rp_experiments.results import limits, points
from rp_experiments.run import Run

Row = Mapping[str, Any]

COLUMNS: dict[str, str] = read("columns")
_SAID = ("claims", "differences", "equal_compute")  # parts of a result that are sentences
ATTACKS = tuple(name for name in COLUMNS if name not in ("clean", "published", "worst"))


def write(
    run: Run,
    config: Comparison,
    rows: Mapping[str, Row],
    networks: Mapping[str, str] | None = None,
    *,
    so_far: bool = False,
) -> None:
    """Write `result.json`, the page and the figures, and print the table; rows as `ComparisonJob.judge` gives them.

    With `so_far` the files are called so, and say which of the chosen rows are not done.
    """
    seconds = run.folder.seconds()  # of all sessions; a report knows those of its last one
    result: dict[str, Any] = {
        "setting": setting(config, next(iter(rows.values()))),
        "rows": {
            name: {
                **{key: row[key] for key in ("purifier", "cells", "findings", "latency")},
                "operations": row.get("operations"),  # not of older runs
                "seconds": seconds.get(name, row["seconds"]),
                "convergence": row.get("convergence", []),
            }
            for name, row in rows.items()
        },
        "claims": claims(rows),
        "differences": differences(rows, config.compared),
        "equal_compute": equal_compute(rows, config.compared),
        "networks": dict(networks or {}),
    }
    suffix = "-so-far" if so_far else ""
    if so_far:
        result["unfinished"] = [name for name in config.chosen if name not in rows]
    run.finish(result, f"result{suffix}.json")
    name = f"purifiers-{config.data}{suffix}"
    figures = {name: plot_rows(result), f"{name}-pareto": plot_pareto(result)}
    passes = {title(row): found["convergence"] for row, found in result["rows"].items() if found["convergence"]}
    if passes:
        figures[f"{name}-convergence"] = plot_eot_convergence(passes)
    for figure, plot in figures.items():
        plot.save(run.path / "figures" / figure, formats=("png",))
    page = run.folder.write_text(f"{name}.md", markdown(result, figure=f"figures/{name}.png"))
    print(table(result), *_unfinished(result), sep="\n\n")
    print("\n".join(found["text"] for kind in _SAID for found in result[kind].values()))
    print(f"\nthe page is {page}", file=sys.stderr)


def setting(config: Comparison, row: Row) -> dict[str, Any]:
    """What the numbers are of."""
    return {
        "data": config.data,
        "split": "test",
        "images": len(row["images"]["index"]),
        "index": row["images"]["index"],
        "norm": "linf",
        "eps": config.budget.eps,
        "seed": config.seed,
        "budget": asdict(config.budget),
        "exhaustive": config.exhaustive,
    }


def claims(rows: Mapping[str, Row]) -> dict[str, Any]:
    """The orders that the paper reports, image by image on these images under the worst case of each row."""
    found: dict[str, Any] = {}
    paper = next(column for column in PAPER if column.key == "pgd").figures
    for better, worse in CLAIMS:
        if better not in rows or worse not in rows:
            continue
        first, second = (_worst_of_each_image(rows[name]) for name in (better, worse))
        comparison = paired_comparison(first, second)
        difference = comparison.difference._asdict()
        verdict = "not told apart"
        if difference["low"] > 0:
            verdict = "as in the paper"
        elif difference["high"] < 0:
            verdict = "the other way round than in the paper"
        text = (
            f"{title(better)} against {title(worse)}, worst case of each image: {points(difference)} points, "
            f"{verdict} (there {paper[better] - paper[worse]:+.1f}, Table 1)."
        )
        found[f"{better}>{worse}"] = {"difference": difference, "p": comparison.p_value, "text": text}
    return found


def differences(rows: Mapping[str, Row], compared: Sequence[str]) -> dict[str, Any]:
    """Every row against some of them, image by image under the worst case of each row."""
    found: dict[str, Any] = {}
    for reference in (name.replace("-", "_") for name in compared):
        for other in rows if reference in rows else ():
            if other == reference or f"{other}>{reference}" in found:
                continue
            first, second = (_worst_of_each_image(rows[name]) for name in (reference, other))
            comparison = paired_comparison(first, second)
            difference = comparison.difference._asdict()
            verdict = "not told apart"
            if difference["low"] > 0 or difference["high"] < 0:
                verdict = f"{title(reference if difference['low'] > 0 else other)} is more robust"
            text = (
                f"{title(reference)} against {title(other)}, worst case of each image: {points(difference)} points, "
                f"{verdict}."
            )
            found[f"{reference}>{other}"] = {"difference": difference, "p": comparison.p_value, "text": text}
    return found


def table(result: Mapping[str, Any]) -> str:
    """The table in Markdown: expected accuracy of one query, in percent."""
    rows = result["rows"]
    shown = [name for name in COLUMNS if any(name in row["cells"] for row in rows.values())]
    lines = []
    for name, row in rows.items():
        refused = any(finding["level"] == "refused" for finding in row["findings"])
        line = {COLUMNS[column]: row["cells"].get(column) for column in shown}
        line["worst, majority"] = limits(row["cells"]["worst"], "majority")
        if refused:
            line |= dict.fromkeys((COLUMNS["worst"], "worst, majority"), "REFUSED")
        lines.append({"purifier": title(name), **line})
    return tables.markdown(lines)


def markdown(result: Mapping[str, Any], *, figure: str) -> str:
    """The page: setting, table, what it says, the paper's figures, figure."""
    return pages.render(
        "purifiers.md",
        setting={"exhaustive": True, **result["setting"]},
        budget={**asdict(Budget()), "step_size": None, **result["setting"]["budget"]},
        table=table(result),
        unfinished=_unfinished(result),
        figure=figure,
        pareto=figure.replace(".png", "-pareto.png"),
        convergence=figure.replace(".png", "-convergence.png")
        if any(row.get("convergence") for row in result["rows"].values())
        else "",
        protocols=_protocols(result),
        costs=_costs(result["rows"]),
        sentences=_sentences(result),
        paper=paper_table(),
        columns=PAPER,
        settings={title(name): _settings(row["purifier"]) for name, row in result["rows"].items()},
        notes={title(name): NOTES[name] for name in result["rows"] if name in NOTES},
        networks={role: words for role, words in NETWORKS.items() if role in _roles(result)},
    )


def _costs(rows: Mapping[str, Row]) -> str:
    """What one pass of each row takes, in Markdown, where all were measured."""
    if not all(row.get("latency") for row in rows.values()):
        return ""
    lines = []
    for name, row in rows.items():
        counted = {"million operations per image and pass": row["operations"] / 1e6} if row.get("operations") else {}
        lines.append({"purifier": title(name), **counted, "ms per image and pass": 1000 * row["latency"]})
    return tables.markdown(lines)


def _unfinished(result: Mapping[str, Any]) -> list[str]:
    """What a table of the rows so far leaves out, in a sentence."""
    names = "; ".join(title(name) for name in result.get("unfinished", ()))
    return [f"Not done yet, and so not in the table: {names}."] if names else []


def _roles(result: Mapping[str, Any]) -> set[str]:
    """The networks that the rows name."""
    named = {row["purifier"].get(key) for row in result["rows"].values() for key in ("mae", "model")}
    return {"classifier", *filter(None, named)}


def _protocols(result: Mapping[str, Any]) -> dict[str, str]:
    """The authors' attacks of the rows that have one, cut to the budget of the comparison."""
    budget = result["setting"]["budget"]
    known = [name for name, row in result["rows"].items() if "published" in row["cells"]]
    most = {key: budget[f"published_{key}"] for key in ("steps", "eot") if known}
    return {title(name): PROTOCOLS[name].within(**most).in_words() for name in known}


def paper_table() -> str:
    """The paper's accuracies of the same purifiers, in Markdown."""
    names = [name for name in TITLES if any(name in column.figures for column in PAPER)]
    heads = {f"{column.title} ({column.table})": column.figures for column in PAPER}
    return tables.markdown(
        [{"purifier": TITLES[name], **{head: figures.get(name) for head, figures in heads.items()}} for name in names]
    )


def equal_compute(rows: Mapping[str, Row], compared: Sequence[str]) -> dict[str, Any]:
    """Which row is the most robust of those that cost no more than each of `compared`, by operations of a pass."""
    found: dict[str, Any] = {}
    if not all(row.get("operations") for row in rows.values()):
        return found
    for reference in (name.replace("-", "_") for name in compared):
        if reference not in rows:
            continue
        most = rows[reference]["operations"]
        worst = {n: limits(r["cells"]["worst"])["estimate"] for n, r in rows.items() if r["operations"] <= most}
        best = max(worst, key=worst.__getitem__)
        text = (
            f"At equal compute, of the {len(worst)} rows that take no more than {title(reference)}'s {most / 1e6:.3g} "
            f"million operations a pass, {title(best)} is the most robust ({100 * worst[best]:.1f}%)."
        )
        found[reference] = {"operations": most, "best": best, "text": text}
    return found


def write_tuning(run: Run, config: Comparison, tried: Mapping[str, Sequence[Mapping[str, Any]]], images: int) -> None:
    """Write `tuning.json` and a page with every setting that was tried, and print the table."""
    best = {row: max(results, key=lambda result: result["accuracy"]["worst"]) for row, results in tried.items()}
    lines: list[tables.Row] = []
    for row, results in tried.items():
        for result in results:
            percent = {key: 100 * result["accuracy"][key] for key in ("clean", "transfer", "bpda", "worst")}
            mark = " **(best)**" if result is best[row] else ""
            lines.append({"row": title(row), "setting": _settings(result["settings"]) + mark, **percent})
    table = tables.markdown(lines)
    run.folder.write_json(
        "tuning.json", {"images": images, "config": asdict(config), "tried": dict(tried), "best": best}
    )
    text = (
        f"# Settings tried on {config.data}, validation split\n\n"
        f"{images} validation images, Linf eps {config.budget.eps:.4g}, accuracy in percent; worst of two short "
        "attacks (transfer; PGD with 10 steps, 2 passes a gradient and the identity as the purifier's gradient). No "
        f"robust accuracies: they only choose.\n\n{table}\n"
    )
    page = run.folder.write_text(f"purifiers-{config.data}-tuning.md", text)
    print(table)
    print(f"\nthe page is {page}", file=sys.stderr)


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """What the table says: each row, the orders that the paper reports, and what the evaluation warns of."""
    rows = result["rows"]
    alarms = [f"{title(n)}: {f['text']}" for n, r in rows.items() for f in r["findings"] if f["level"] == "alarm"]
    claimed = [found["text"] for kind in _SAID for found in result.get(kind, {}).values()]
    alone = result["setting"].get("exhaustive", True)
    return [*(_row_in_words(name, row["cells"], alone=alone) for name, row in rows.items()), *claimed, *alarms]


def _row_in_words(name: str, cells: Mapping[str, Any], *, alone: bool) -> str:
    """Clean and worst case, the strongest attack, and what a weak one would have said."""
    percent = {column: 100 * limits(cell)["estimate"] for column, cell in cells.items()}
    strongest = min((column for column in ATTACKS if column in cells), key=percent.__getitem__)
    text = f"{title(name)}: {percent['clean']:.1f}% clean, {percent['worst']:.1f}% in the worst case"
    if alone:
        text += f"; the strongest single attack is {COLUMNS[strongest]} ({percent[strongest]:.1f}%)"
    if "published" in percent:
        text += f"; its authors' own attack leaves {percent['published']:.1f}%"
    if "transfer" in percent:
        text += f", transfer from the classifier leaves {percent['transfer']:.1f}%"
    if "pgd-exact" not in percent:
        text += "; its exact gradient was not at hand, so this is an upper bound"
    return text + "."


def _worst_of_each_image(row: Row) -> list[float]:
    """Share of right passes of each image under its worst attack."""
    (threat,) = (value for key, value in row["per_image"].items() if key != "clean")
    return list(threat["worst"])


def _settings(values: Mapping[str, Any]) -> str:
    """The settings that count, in a line; the network by its role."""
    shown = {key: value for key, value in values.items() if key != "kind" and value not in (None, "")}
    words = (f"{'network' if key in ('mae', 'model') else key} {tables.cell(value)}" for key, value in shown.items())
    return ", ".join(words) or "as it is"
