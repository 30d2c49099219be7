"""What a sweep leaves for a reader: the table, `result.json`, and a figure where one number was varied."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rp_analysis.plots import Plot
from rp_analysis.plots.dra import StrengthPoint, plot_strength_sweep
from rp_models.training import RunFolder

from rp_experiments import tables
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.sweep import Sweep
from rp_experiments.reports.dra_report import describe_attacks, describe_classifier
from rp_experiments.results import points
from rp_experiments.statistics import Answers, Difference, Right, difference, holm, mean_accuracy

Series = tuple[str, str]  # point, method
KINDS = {"clean": "clean", "autoattack": "AutoAttack"}


def write(
    folder: RunFolder, sweep: Sweep, configs: Mapping[int, Sequence[TrainDra]], answers: Sequence[Answers]
) -> None:
    """Write `result.json` and the figure, and print the table."""
    every = _series(answers)
    other = next((series for series in every if series[0] == sweep.against), None)
    rows = {series: _row(series, answers, every[0], other) for series in every}
    _correct(rows.values())
    first = configs[sweep.seeds[0]][0]
    images = len(answers[0].clean)
    setting = {
        "base": sweep.base,
        "data": first.data,
        "images": images,
        "classifier": describe_classifier(first.classifier),
        "attack": describe_attacks(first),
        "norm": first.evaluation.norm,
        "eps": first.evaluation.eps,
        "seeds": list(sweep.seeds),
        "compared_with": " ".join(every[0]),
        "compared_with_too": " ".join(other) if other else None,
    }
    folder.write_json(
        "result.json",
        {
            "setting": setting,
            "rows": [{"point": point, "method": method, **row} for (point, method), row in rows.items()],
            "sweep": asdict(sweep),
            "environment": folder.read_json("environment.json"),
        },
    )
    plot = _strengths(sweep, answers)
    if plot is not None:
        plot.save(folder.path / "figures" / "sweep")
    text = table(setting, rows)
    folder.write_text("table.txt", text + "\n")
    print(text)


def table(setting: Mapping[str, Any], rows: Mapping[Series, Mapping[str, Any]]) -> str:
    """The table as text, with the setting above it."""
    lines = [
        {"point": point, "method": method, "clean %": row["clean"], "AutoAttack %": row["autoattack"]}
        | {f"{title}, difference": _points(row[f"{kind}_difference"]) for kind, title in KINDS.items()}
        | {
            f"{title}, from {too}": _points(row[f"{kind}_other_difference"])
            for kind, title in KINDS.items()
            if (too := setting["compared_with_too"])
        }
        for (point, method), row in rows.items()
    ]
    several = len(setting["seeds"]) > 1
    accuracies = "Student's over seeds" if several else "Wilson's over images"
    paired = "seed (Student), then by image (bootstrap)" if several else "image (bootstrap)"
    test = "Student's" if several else "McNemar's"
    legend = (
        f"95% intervals: accuracies, {accuracies}; differences in points from {setting['compared_with']}, paired by "
    )
    title = (
        f"{setting['data']}, {setting['images']} test images, {setting['norm'].capitalize()} eps {setting['eps']:.3g}, "
        f"{setting['classifier']}, {setting['attack']}, seeds {' '.join(map(str, setting['seeds']))}"
    )
    legend += f"{paired}; p-values are {test}, corrected for the comparisons of a column (Holm)"
    return "\n".join(["", title, tables.text(lines), "", legend])


def _series(answers: Sequence[Answers]) -> list[Series]:
    """Points and methods in the order in which they were run."""
    return list(dict.fromkeys((answer.point, answer.method) for answer in answers))


def _right(series: Series, answers: Sequence[Answers], kind: str) -> list[Right]:
    """For each seed which images were right."""
    return [getattr(answer, kind) for answer in answers if (answer.point, answer.method) == series]


def _row(series: Series, answers: Sequence[Answers], reference: Series, other: Series | None) -> dict[str, Any]:
    """Means of one series, and its differences from the reference, and from another one if there is one."""
    row: dict[str, Any] = {}
    for kind in KINDS:
        right = _right(series, answers, kind)
        row[kind] = mean_accuracy(right)._asdict()
        row[f"{kind}_per_seed"] = [float(seed.mean()) for seed in right]
        for name, compared in {"difference": reference, "other_difference": other}.items():
            gap = difference(right, _right(compared, answers, kind)) if compared not in (series, None) else None
            row[f"{kind}_{name}"] = _plain(gap)
    return row


def _plain(value: Difference | None) -> dict[str, Any] | None:
    """A difference as JSON values."""
    if value is None:
        return None
    images = value.over_images
    return {
        "over_seeds": value.over_seeds._asdict() if value.over_seeds else None,
        "over_images": {**images._asdict(), "difference": images.difference._asdict()},
        "p": value.p_value,
    }


def _correct(rows: Iterable[dict[str, Any]]) -> None:
    """Write beside each p-value that which holds for all comparisons of its column together."""
    for kind in KINDS:
        for name in ("difference", "other_difference"):
            column = [row[f"{kind}_{name}"] for row in rows if row[f"{kind}_{name}"] is not None]
            for gap, corrected in zip(column, holm([gap["p"] for gap in column]), strict=True):
                gap["p_corrected"] = corrected


def _points(value: Mapping[str, Any] | None) -> str | None:
    """`+1.2 [-0.3, +2.7], [+0.1, +2.3], p 0.03`, which is corrected for the number of comparisons."""
    if value is None:
        return None
    images, seeds = value["over_images"], value["over_seeds"]
    shown = points(images["difference"])
    if seeds:
        estimate, over_seeds = points({**seeds, "estimate": images["difference"]["estimate"]}).split(" ", 1)
        shown = f"{estimate} {over_seeds}, {shown.split(' ', 1)[1]}"
    return f"{shown}, p {value['p_corrected']:.2g}"


def _strengths(sweep: Sweep, answers: Sequence[Answers]) -> Plot | None:
    """Accuracy over the alignment's weight, if that alone was varied with one method (Fig. 8 of the DRA paper)."""
    varied = [name for name, values in sweep.grid.items() if len(values) > 1]
    if varied != ["alignment.weight"] or len(sweep.method) != 1 or sweep.cases:
        return None
    found = []
    for name, point in sweep.points().items():
        series = (name, sweep.method[0])
        clean, robust = (mean_accuracy(_right(series, answers, kind)) for kind in ("clean", "autoattack"))
        found.append(StrengthPoint(float(point["alignment.weight"]), clean.estimate, robust.estimate))
    baseline = next((point for point in found if point.strength == 0), None)
    return plot_strength_sweep([point for point in found if point.strength > 0] or found, baseline)
