"""Pilots: values of robust fine-tuning that the paper leaves open, tried on few training images before the long run."""

from pathlib import Path
from typing import Any

from rp_models.training import RunFolder

from rp_experiments.compare_purifiers import ComparisonJob
from rp_experiments.papers.settings import Pilot
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.table import changed
from rp_experiments.run import Run


def pilot(config: Pilot, run: Run) -> None:
    """Tune a network with each of the values, judge all on validation images; leaves `result.json` with the best.

    Best is the highest accuracy under the worse of two short attacks, then the highest one without attack.
    """
    job = ComparisonJob(config.trial, run.claim(config), split="validation")
    rows = [
        {**values, **job.attempt(row, {})["accuracy"]} for row, values in zip(config.rows, config.tried, strict=True)
    ]
    best = max(range(len(rows)), key=lambda number: (rows[number]["worst"], rows[number]["clean"]))
    setting = {
        "data": config.comparison.data,
        "split": "validation",
        "images": len(job.x),
        "training images": config.train_images,
        "steps": config.steps,
    }
    run.folder.write_json("result.json", {"setting": setting, "rows": rows, "chosen": dict(config.tried[best])})


def chosen(pilot_folder: Path) -> dict[str, Any]:
    """The values that a finished pilot chose."""
    found: dict[str, Any] = RunFolder(pilot_folder).read_json("result.json")["chosen"]
    return found


def settled(comparison: Comparison, networks: Path) -> Comparison:
    """A comparison whose networks are tuned with the values that pilots chose, as the folder of its networks says."""
    values = RunFolder(networks).read_json("result.json").get("finetuning", {})
    return with_values(comparison, values)


def with_values(comparison: Comparison, values: dict[str, dict[str, Any]]) -> Comparison:
    """A comparison with values of its trainings, such as `finetune_mae`."""
    return changed(comparison, {tuning: {"finetune": of} for tuning, of in values.items()})
