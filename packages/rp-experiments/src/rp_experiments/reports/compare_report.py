"""What a comparison of purifiers leaves for a reader: `result.json`, a page of Markdown, and a figure."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rp_analysis.plots.style import COLOURS, Plot, new_figure, style
from rp_attacks.intervals import Interval, paired_comparison
from rp_models.training import RunFolder
from rp_purify.settings import uses

from rp_experiments.recipes.compare_purifiers import TITLES, Comparison
from rp_experiments.recipes.purification_paper import CLAIMS, PAPER

Row = Mapping[str, Any]

COLUMNS = {
    "clean": "clean",
    "transfer": "transfer",
    "pgd-exact": "PGD exact",
    "bpda": "BPDA",
    "one-shot": "one-shot transfer",
    "pgd-ste-tanh": "PGD ste-tanh",
    "pgd-normalised": "PGD normalised",
    "autoattack-rand": "AutoAttack rand",
    "square": "Square",
    "worst": "WORST CASE",
}
ATTACKS = tuple(name for name in COLUMNS if name not in ("clean", "worst"))


def write(folder: RunFolder, config: Comparison, rows: Mapping[str, Row], networks: Mapping[str, str]) -> None:
    """Write `result.json`, the page and the figure, and print the table.

    Args:
        folder: of the run.
        config: of the comparison.
        rows: results by row, as `ComparisonJob.judge` gives them.
        networks: hashes of the weights.
    """
    seconds = folder.seconds()  # of all sessions; a report knows those of its last one
    result = {
        "setting": setting(config, next(iter(rows.values()))),
        "rows": {
            name: {**{key: row[key] for key in ("purifier", "cells", "findings")}, "seconds": seconds.get(name)}
            for name, row in rows.items()
        },
        "claims": claims(rows),
        "networks": dict(networks),
        "seconds": seconds,
        "config": asdict(config),
        "environment": folder.read_json("environment.json"),
    }
    folder.write_json("result.json", result)
    name = f"purifiers-{config.data}"
    plot_rows(result).save(folder.path / "figures" / name, formats=("png",))
    page = folder.write_text(f"{name}.md", markdown(result, figure=f"figures/{name}.png"))
    print(table(result))
    print("\n".join(result["claims"][key]["text"] for key in result["claims"]))
    print(f"\neverything else is in {folder.path}/; the page is {page}", file=sys.stderr)


def setting(config: Comparison, row: Row) -> dict[str, Any]:
    """What the numbers are of."""
    budget = config.budget
    return {
        "data": config.data,
        "split": "test",
        "images": len(row["images"]["index"]),
        "index": row["images"]["index"],
        "norm": "linf",
        "eps": budget.eps,
        "seed": config.seed,
        "budget": asdict(budget),
    }


def claims(rows: Mapping[str, Row]) -> dict[str, Any]:
    """The orders that the paper reports, image by image on these images under the worst case of each row."""
    found: dict[str, Any] = {}
    for better, worse in CLAIMS:
        if better not in rows or worse not in rows:
            continue
        first, second = (_worst_of_each_image(rows[name]) for name in (better, worse))
        comparison = paired_comparison(first, second)
        paper = next(column for column in PAPER if column.key == "pgd").figures
        difference = comparison.difference
        reached = difference.low > 0
        verdict = (
            "as in the paper"
            if reached
            else "the other way round than in the paper"
            if difference.high < 0
            else "not told apart"
        )
        text = (
            f"{TITLES[better]} against {TITLES[worse]}, worst case of each image: {_points(difference)} points, "
            f"{verdict} (there {paper[better] - paper[worse]:+.1f}, Table 1)."
        )
        found[f"{better}>{worse}"] = {"difference": difference._asdict(), "p": comparison.p_value, "text": text}
    return found


def table(result: Mapping[str, Any]) -> str:
    """The table in Markdown: expected accuracy of one query, in percent."""
    shown = [name for name in COLUMNS if any(name in row["cells"] for row in result["rows"].values())]
    lines = ["| purifier | " + " | ".join(COLUMNS[name] for name in shown) + " | worst, majority |"]
    lines.append("|---|" + "---:|" * (len(shown) + 1))
    for name, row in result["rows"].items():
        cells = [_cell(row["cells"].get(column, {}).get("per_query")) for column in shown]
        cells.append(_cell(row["cells"]["worst"]["majority"]))
        if any(finding["level"] == "refused" for finding in row["findings"]):
            cells[-2:] = ["REFUSED", "REFUSED"]
        lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(result: Mapping[str, Any], *, figure: str) -> str:
    """The page: setting, table, what it says, the paper's figures, figure."""
    return "\n".join(
        [
            f"# Purifiers under attack: {result['setting']['data']}",
            "",
            "<!-- written by apps/compare_purifiers.py from result.json -->",
            "",
            _setting_in_words(result["setting"]),
            "",
            table(result),
            "",
            _attacks_in_words(result["setting"]["budget"]),
            "",
            f"![clean and worst-case accuracy of each purifier]({figure})",
            "",
            "## What it says",
            "",
            *(f"- {sentence}" for sentence in _sentences(result)),
            "",
            "## The paper's figures",
            "",
            "Other images, networks and budgets: they show an order, not a scale.",
            "",
            paper_table(),
            "",
            *(f"- {column.title} ({column.table}): {column.setting}." for column in PAPER),
            "",
            "## Settings of the rows",
            "",
            *(f"- {TITLES[name]}: {_settings(row['purifier'])}" for name, row in result["rows"].items()),
            "",
        ]
    )


def _setting_in_words(where: Mapping[str, Any]) -> str:
    """The images and what the numbers count."""
    return (
        f"{where['images']} test images (the field's fixed draw), one standard classifier behind every purifier, Linf "
        f"eps {where['eps']:.4g}, seed {where['seed']}. Accuracy of one query in percent, a mean over "
        f"{where['budget']['passes']} fresh passes that no attack saw, with 95% intervals: a bootstrap over images, or "
        "Wilson's where all passes agree or vote. Every attack ran on every image; the worst case takes the worst "
        "candidate of each image, chosen by other passes."
    )


def _attacks_in_words(budget: Mapping[str, Any]) -> str:
    """The columns of the table."""
    size = f" of {budget['step_size']:.4g}" if budget.get("step_size") else ""
    return (
        f"PGD: {budget['steps']} steps{size}, gradients averaged over {budget['eot']} passes, best iterate; through "
        f"the curved rules (ste-tanh, normalised) {budget['curved_steps']} steps and {budget['curved_eot']} passes. "
        "BPDA: PGD with the identity as the purifier's gradient. Transfer: PGD on the margin of the classifier alone. "
        "One-shot transfer, against iterative purifiers: PGD with the exact gradient of a purifier of one pass with "
        f"the same network. AutoAttack rand: APGD-CE and APGD-DLR, {budget['steps']} steps, {budget['eot']} passes. "
        f"Square: {budget['queries']} queries of {budget['query_passes']} passes. A blank: the attack does not apply, "
        "or the purifier does not offer that rule."
    )


def paper_table() -> str:
    """The paper's accuracies of the same purifiers, in Markdown."""
    names = [name for name in TITLES if any(name in column.figures for column in PAPER)]
    lines = ["| purifier | " + " | ".join(f"{column.title} ({column.table})" for column in PAPER) + " |"]
    lines.append("|---|" + "---:|" * len(PAPER))
    for name in names:
        cells = (f"{column.figures[name]:.2f}" if name in column.figures else "" for column in PAPER)
        lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_rows(result: Mapping[str, Any]) -> Plot:
    """Draws clean accuracy, accuracy under transfer and under the worst case as bars with their intervals."""
    kinds = {"clean": "clean", "transfer": "transfer from the classifier", "worst": "worst case"}
    names, drawn = list(result["rows"]), []
    with style():
        figure, (axes,) = new_figure(width=max(4.0, 1.2 + 0.62 * len(names)), height=3.2)
        for offset, (kind, label) in enumerate(kinds.items()):
            places, estimates, below, above = [], [], [], []
            for place, name in enumerate(names):
                cell = result["rows"][name]["cells"].get(kind)
                if cell is None:
                    continue
                value = {key: 100 * number for key, number in cell["per_query"].items()}
                places.append(place + (offset - 1) * 0.27)
                estimates.append(value["estimate"])
                below.append(value["estimate"] - value["low"])
                above.append(value["high"] - value["estimate"])
                drawn.append({"purifier": TITLES[name], "kind": label, **cell["per_query"]})
            axes.bar(places, estimates, 0.25, yerr=[below, above], capsize=1.5, color=COLOURS[offset], label=label)
        axes.set_xticks(range(len(names)), [TITLES[name] for name in names], rotation=30, ha="right")
        where = result["setting"]
        title = f"{where['data']}, {where['images']} test images, Linf eps {where['eps']:.3g}"
        axes.set(ylabel="accuracy of one query (%)", ylim=(0, 119), yticks=range(0, 101, 20), title=title)
        axes.legend(loc="upper right", ncols=3)
        return Plot(figure, drawn)


def write_tuning(
    folder: RunFolder, config: Comparison, tried: Mapping[str, Sequence[Mapping[str, Any]]], images: int
) -> None:
    """Write `tuning.json` and a page with every setting that was tried, and print the page."""
    best = {row: max(results, key=lambda result: result["accuracy"]["worst"]) for row, results in tried.items()}
    lines = [
        f"# Settings tried on {config.data}, validation split",
        "",
        f"{images} validation images, Linf eps {config.budget.eps:.4g}; worst of two short attacks (transfer; PGD with "
        "10 steps, 2 passes a gradient and the identity as the purifier's gradient). No robust accuracies: they only "
        "choose.",
        "",
        "| row | setting | clean | transfer | BPDA | worst |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row, results in tried.items():
        for result in results:
            accuracy = (f"{100 * result['accuracy'][key]:.1f}" for key in ("clean", "transfer", "bpda", "worst"))
            mark = " **(best)**" if result is best[row] else ""
            lines.append(f"| {TITLES[row]} | {_settings(result['settings'])}{mark} | " + " | ".join(accuracy) + " |")
    folder.write_json("tuning.json", {"images": images, "config": asdict(config), "tried": dict(tried), "best": best})
    page = folder.write_text(f"purifiers-{config.data}-tuning.md", "\n".join([*lines, ""]))
    print("\n".join(lines[6:]))
    print(f"\nthe page is {page}", file=sys.stderr)


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """What the table says: each row, the orders that the paper reports, and what the evaluation warns of."""
    rows = result["rows"]
    alarms = [f"{TITLES[n]}: {f['text']}" for n, r in rows.items() for f in r["findings"] if f["level"] == "alarm"]
    claimed = [claim["text"] for claim in result["claims"].values()]
    return [*(_row_in_words(name, row["cells"]) for name, row in rows.items()), *claimed, *alarms]


def _row_in_words(name: str, cells: Mapping[str, Any]) -> str:
    """Clean and worst case, the strongest attack, and what a weak one would have said."""
    percent = {column: 100 * cell["per_query"]["estimate"] for column, cell in cells.items()}
    strongest = min((column for column in ATTACKS if column in cells), key=percent.__getitem__)
    text = f"{TITLES[name]}: {percent['clean']:.1f}% clean, {percent['worst']:.1f}% in the worst case; the strongest "
    text += f"single attack is {COLUMNS[strongest]} ({percent[strongest]:.1f}%)"
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
    """The settings that count in a line, networks left out."""
    used = set(uses(values["kind"])) if "kind" in values else set(values)
    shown = {key: value for key, value in values.items() if key in used - {"mae", "model"}}
    return ", ".join(f"{key} {_short(value)}" for key, value in shown.items() if value is not None) or "as it is"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(interval: Mapping[str, float] | None) -> str:
    """`97.3 [94.8, 98.9]`, or nothing."""
    if interval is None:
        return ""
    return f"{100 * interval['estimate']:.1f} [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"


def _points(interval: Interval) -> str:
    return f"{100 * interval.estimate:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
