"""What a run of `train_dra.py` leaves for a reader: the table, `result.json`, and two figures."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from recipes.dra import TrainDra
from rp_analysis import plot_comparison, plot_training
from rp_attacks.intervals import Interval
from rp_attacks.report import Report
from rp_dra.settings import METHODS
from rp_models.data import ImageSet
from rp_models.training import RunFolder

Row = Mapping[str, Any]


def row(report: Report) -> dict[str, Any]:
    """Counts and intervals of one classifier: clean, and the worst case over AutoAttack's attacks."""
    records = {"clean": report.clean, "autoattack": report.worst}
    if any(finding.level == "refused" for finding in report.findings):
        raise RuntimeError(f"the evaluation refuses its own number: {[finding.text for finding in report.findings]}")
    return {
        **{name: _counted(report.verdict(record).per_query, record.right) for name, record in records.items()},
        "findings": [finding._asdict() for finding in report.findings],
    }


def _counted(interval: Interval, right: np.ndarray) -> dict[str, Any]:
    return {"correct": int(right.sum()), "images": len(right), **interval._asdict()}


def write(folder: RunFolder, config: TrainDra, test: ImageSet, rows: Mapping[str, Row]) -> None:
    """Write `result.json` and the figures, and print the table."""
    seconds = folder.seconds()
    setting = {
        "data": config.data,
        "split": "test",
        "images": len(test),
        "attack": "AutoAttack standard (APGD-CE, APGD-T, FAB-T, Square)",
        "norm": "linf",
        "eps": config.evaluation.eps,
        "classifier": f"WRN-{config.classifier.depth}-{config.classifier.width}, {config.classifier.activation}",
        "seed": config.seed,
    }
    folder.write_json(
        "result.json",
        {
            "setting": setting,
            "methods": dict(rows),
            "seconds": seconds,
            "config": asdict(config),
            "environment": folder.read_json("environment.json"),
        },
    )
    title = f"{config.data}, {len(test)} test images, Linf eps {config.evaluation.eps:.3g}"
    plot_training({method: folder.metrics(method) for method in rows}).save(folder.path / "figures" / "training")
    plot_comparison(rows, title).save(folder.path / "figures" / "comparison")
    print(table(setting, rows, seconds))
    print(f"\neverything else is in {folder.path}/", file=sys.stderr)


def table(setting: Mapping[str, Any], rows: Mapping[str, Row], seconds: Mapping[str, float]) -> str:
    """The run's table as text, with the setting above it and the seconds of each stage below it."""
    cells = [["method", "clean %", "AutoAttack %", "CKNNA", "alignment", "uniformity"]]
    for method, values in rows.items():
        similarity = values["cknna"]
        cells.append(
            [
                method,
                _share(values["clean"]),
                _share(values["autoattack"]),
                "-" if similarity is None else f"{similarity:.3f}",
                f"{values['alignment']:.3f}",
                f"{values['uniformity']:.3f}",
            ]
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(
        [
            f"\n{setting['data']}, {setting['images']} test images, Linf eps {setting['eps']:.3g}, "
            f"{setting['classifier']}, seed {setting['seed']}; 95% Wilson intervals",
            *lines,
            "",
            "higher is more: CKNNA with the diffusion model's features, alignment of clean and adversarial, uniformity",
            "seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()),
            *(f"{method}: {METHODS[method]}" for method in rows),  # type: ignore[index]
        ]
    )


def _share(value: Mapping[str, Any]) -> str:
    """`97.3 [94.8, 98.6] 292/300`."""
    low, high = (100 * value[key] for key in ("low", "high"))
    return f"{100 * value['estimate']:.1f} [{low:.1f}, {high:.1f}] {value['correct']}/{value['images']}"
