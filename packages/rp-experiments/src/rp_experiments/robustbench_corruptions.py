"""`evaluate.py --suite robustbench` on corrupted images: the mean accuracy over corruptions and severities.

The images are RobustBench's: the first ones of CIFAR's files, and of ImageNet's its 5,000, 224 pixels wide.
"""

import csv
import io
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from rp_models.data.shifts import SEVERITIES, corruptions
from rp_models.robustbench.corruptions import ALEXNET
from rp_models.robustbench.images import benchmark_images

from rp_experiments import tables
from rp_experiments.autoattack_files import write_model_info
from rp_experiments.beyond_lp import shift_mean
from rp_experiments.evaluate import classifier_of
from rp_experiments.networks import standard_classifier
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.results import LIMITS, Accuracy, classified, points
from rp_experiments.run import Run

CLEAN = "results/clean.json"


def judge_corrupted(config: Evaluation, run: Run) -> None:
    """Evaluate on all sets, which processes share; leave `result.json`, `model_info/` and the unaggregated results."""
    kind = config.corrupted
    assert kind is not None
    sets = [f"{kind}/{part}/{level}" for part in corruptions(kind) for level in SEVERITIES]
    for name in sets:
        benchmark_images(name, 1, root=run.root)  # all are there, before the first is judged
    model = classifier_of(config, config.model or standard_classifier(config.data, run), run)
    run.claim(config.resolved())
    pieces = {CLEAN: config.data} | {f"results/{name}.json": name for name in sets}
    run.progress.start("sets of images", len(pieces))
    for number, file in enumerate(run.share(list(pieces)), start=1):
        run.alone().once(file, partial(_accuracy, model, pieces[file], config, run), stage="")
        run.progress.advance(number)
    run.progress.finish()
    if run.main:
        _leave(config, kind, {name: run.folder.read_json(f"results/{name}.json") for name in sets}, run.alone())


def _accuracy(model: torch.nn.Module, name: str, config: Evaluation, run: Run) -> Accuracy:
    """Of one set, clean or corrupted."""
    images = benchmark_images(name, config.sizes.images, preprocessing=config.preprocessing, root=run.root)
    images = images.to(run.device)
    with torch.no_grad():
        return classified(model, map(images.batch, torch.arange(len(images)).split(config.batch_size)))


def _leave(config: Evaluation, kind: str, found: dict[str, Accuracy], run: Run) -> None:
    """Write the files, and print table and comparison."""
    clean, mean = run.folder.read_json(CLEAN), shift_mean(kind, found, ALEXNET)
    result = {"clean": clean, "kind": kind, "sets": found, "mean": mean, **_compared(config, clean, mean)}
    run.finish({"data": config.data, "split": "test", "model": config.model or config.model_name, **result})
    ending = "_3d" if _in_3d(config) else ""
    place = f"model_info/{config.data}/corruptions"
    run.folder.write_text(f"{place}/unaggregated_results{ending}.csv", _unaggregated(config, found))
    fields: dict[str, Any] = {"name": config.model_name, "dataset": config.data, "eps": None}
    if config.entry is not None:
        fields |= {"additional_data": config.entry.extra_data, "number_forward_passes": config.entry.passes}
    fields |= {"clean_acc": 100 * clean["estimate"], f"corruptions_acc{ending}": 100 * mean["estimate"]}
    fields |= {f"corruptions_mce{ending}": 100 * mean["mCE"]} if "mCE" in mean else {}
    info = write_model_info(run.path / place / f"{config.model_name}.json", **fields)
    print(f"{clean['of']} images of {config.data} and of {len(found)} sets of {kind}, {config.model_name}; accuracy %")
    print(tables.text(_rows(kind, found)))
    print(*_lines(result), f"RobustBench's fields: {info}", sep="\n")


def _rows(kind: str, found: Mapping[str, Accuracy]) -> list[tables.Row]:
    """A row for each corruption, with its severities."""
    rows: list[tables.Row] = []
    for part in corruptions(kind):
        values = [100 * found[f"{kind}/{part}/{level}"]["estimate"] for level in SEVERITIES]
        rows.append(
            {"corruption": part, **dict(zip(map(str, SEVERITIES), values, strict=True)), "mean": sum(values) / 5}
        )
    return rows


def _compared(config: Evaluation, clean: Accuracy, mean: Mapping[str, float]) -> dict[str, Any]:
    """The published figures of an entry for corrupted images, with ours minus theirs."""
    entry = config.entry
    if entry is None or entry.norm is not None:
        return {}
    robust, mce = (entry.robust_3d, entry.mce_3d) if _in_3d(config) else (entry.robust, entry.mce)
    pairs = {"clean": (clean, entry.clean)} | ({} if robust is None else {"robust": (mean, robust)})
    minus: dict[str, Any] = {
        name: {key: ours[key] - theirs / 100 for key in LIMITS} for name, (ours, theirs) in pairs.items()
    }
    if mce is not None and "mCE" in mean:
        minus["mCE"] = mean["mCE"] - mce / 100
    return {"published": entry.published, "minus_published": minus}


def _in_3d(config: Evaluation) -> bool:
    return str(config.corrupted).endswith("3dcc")


def _lines(result: Mapping[str, Any]) -> list[str]:
    """The means, and the comparison, in words."""
    mean = result["mean"]
    lines = [
        "clean {:.2f}; mean over {} sets {:.2f} [{:.2f}, {:.2f}]".format(
            100 * result["clean"]["estimate"], mean["sets"], *(100 * mean[key] for key in LIMITS)
        )
    ]
    if "mCE" in mean:
        lines.append(f"mCE {100 * mean['mCE']:.2f}, by AlexNet's errors on the same pictures")
    if "published" in result:
        minus = result["minus_published"]
        said = [f"{name} {points(minus[name])}" for name in ("clean", "robust") if name in minus]
        said += [f"mCE {100 * minus['mCE']:+.2f}"] if "mCE" in minus else []
        lines.append(f"ours minus published, in points: {', '.join(said)} (limits of our images alone)")
    return lines


def _unaggregated(config: Evaluation, found: Mapping[str, Accuracy]) -> str:
    """RobustBench's table of single accuracies in [0, 1]: a row of corruptions, one of severities, and the model's."""
    parts = [name.split("/")[1:] for name in found]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *(part for part, _ in parts)])
    writer.writerow(["", *(level for _, level in parts)])
    writer.writerow([config.model_name, *(accuracy["estimate"] for accuracy in found.values())])
    return text.getvalue()
