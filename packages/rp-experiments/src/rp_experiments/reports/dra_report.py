"""What a run of `train_dra.py` leaves for a reader: the table, `result.json`, and two figures."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rp_analysis.plots import plot_comparison, plot_training
from rp_attacks.report import Report
from rp_dra.settings import METHODS, ClassifierSettings
from rp_models.data import Images
from rp_models.training import RunFolder

from rp_experiments import tables
from rp_experiments.recipes.dra import AUTOATTACK, TrainDra
from rp_experiments.recipes.published import published
from rp_experiments.results import judged

Row = Mapping[str, Any]
GEOMETRY = {"cknna": "CKNNA", "alignment": "alignment", "uniformity": "uniformity"}


def row(report: Report) -> dict[str, Any]:
    """Counts and intervals of one classifier: clean, and the worst case over AutoAttack's attacks."""
    records = {"clean": report.clean, "autoattack": report.worst}
    if any(finding.level == "refused" for finding in report.findings):
        raise RuntimeError(f"the evaluation refuses its own number: {[finding.text for finding in report.findings]}")
    accuracies = {name: judged(report, record) for name, record in records.items()}
    return {**accuracies, "findings": [finding._asdict() for finding in report.findings]}


def write(
    folder: RunFolder, config: TrainDra, test: Images, rows: Mapping[str, Row], recipe: str = "", *, show: bool = True
) -> None:
    """Write `result.json` and the figures, and print the table, with the paper's figures for this recipe below it."""
    seconds = folder.seconds()
    setting = {
        "data": config.data,
        "split": "test",
        "images": len(test),
        "attack": describe_attacks(config),
        "norm": config.evaluation.norm,
        "eps": config.evaluation.eps,
        "classifier": describe_classifier(config.classifier),
        "seed": config.seed,
    }
    folder.write_json(
        "result.json",
        {
            "setting": setting,
            "methods": dict(rows),
            "published": {method: row._asdict() for method in rows if (row := published(recipe, method)) is not None},
            "seconds": seconds,
            **({"memory": chosen} if (chosen := folder.memory()) else {}),
            "config": asdict(config),
            "environment": folder.read_json("environment.json"),
        },
    )
    ball = f"{config.evaluation.norm.capitalize()} eps {config.evaluation.eps:.3g}"
    title = f"{config.data}, {len(test)} test images, {ball}"
    plot_training({method: folder.metrics(method) for method in rows}).save(folder.path / "figures" / "training")
    plot_comparison(rows, title).save(folder.path / "figures" / "comparison")
    if not show:
        return
    print(table(setting, rows, seconds))
    print(*beside_the_paper(recipe, rows), sep="\n", end="")


def table(setting: Mapping[str, Any], rows: Mapping[str, Row], seconds: Mapping[str, float]) -> str:
    """The run's table as text, with the setting above it and the seconds of each stage below it."""
    lines = [
        {"method": method, "clean %": row["clean"], "AutoAttack %": row["autoattack"]}
        | {name: row[key] for key, name in GEOMETRY.items()}
        for method, row in rows.items()
    ]
    return "\n".join(
        [
            f"\n{setting['data']}, {setting['images']} test images, "
            f"{setting['norm'].capitalize()} eps {setting['eps']:.3g}, "
            f"{setting['classifier']}, seed {setting['seed']}; 95% Wilson intervals",
            tables.text(lines),
            "",
            "higher is more: CKNNA with the diffusion model's features, alignment of clean and adversarial, uniformity",
            "seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()),
            *(f"{method}: {METHODS[method]}" for method in rows),  # type: ignore[index]
        ]
    )


def beside_the_paper(recipe: str, rows: Mapping[str, Row]) -> list[str]:
    """A line for each method that the DRA paper has a figure for at this recipe's own settings."""
    lines = []
    for method in rows:
        found = published(recipe, method)
        if found is not None:
            lines.append(
                f"published for recipe {recipe}, {method}: clean {found.clean:.2f} %, AutoAttack "
                f"{found.autoattack:.2f} % ({found.source})"
            )
    return ["", *lines, ""] if lines else []


def describe_classifier(settings: ClassifierSettings) -> str:
    """The classifier in a few words, e.g. `WRN-28-10, silu`."""
    if settings.network != "dm-wide-resnet":
        return settings.network
    return f"WRN-{settings.depth or 28}-{settings.width or 10}, {settings.activation or 'silu'}"


def describe_attacks(config: TrainDra) -> str:
    """The attacks in words; a part of AutoAttack is not called AutoAttack."""
    names = {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}
    listed = ", ".join(names[name] for name in config.evaluation.attacks)
    return f"AutoAttack standard ({listed})" if config.evaluation.attacks == AUTOATTACK else f"only {listed}"
