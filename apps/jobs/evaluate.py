"""The work of `evaluate.py`: defence, attacks, report, and the figure of accuracy against the radius."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import rp_models
from recipes.evaluation import Evaluation, PurifierSettings
from rp_analysis import RobustnessCurve, plot_robustness_curves
from rp_attacks import PGD, Classifier, Progress, accuracy_curve, evaluate, suite
from rp_models.data import DatasetInfo, describe, load_images, subset_index
from rp_models.data.datasets import DataError
from rp_models.training import ProgressBar, RunFolder
from rp_purify import Defended, GaussianNoise, MAEPure, MAEReconstruction
from torch import nn

from jobs.device import choose_device

RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # of the figure, in multiples of the suite's radius


def run(config: Evaluation, out: Path, *, resume: bool, device: str) -> None:
    """Evaluate, print the report, and leave `result.json`, the adversarial images and the figure in the folder.

    Raises:
        CheckpointError: if a checkpoint cannot be read.
        RunError: if the folder cannot be used.
        DataError: if the classifier does not fit the data set, or there is no such device.
    """
    where = choose_device(device)
    info = describe(config.data)
    classifier = _load_classifier(config.model, info).to(where)
    defence = defended(classifier, config.purifier).to(where).eval()
    folder = RunFolder.open(out, asdict(config), resume=resume)
    images = load_images(config.data, "test").to(where)
    index = subset_index(len(images), config.images or len(images)).to(where)
    x, y = images.batch(index)
    eps = info.eps.get(config.norm) if config.eps is None else config.eps
    purified = config.purifier.kind != "none"
    attacks = suite(
        config.suite,
        eps=eps,
        norm=config.norm,
        random=purified,
        classes=info.num_classes,
        gradients=tuple(rule for rule in defence.gradients if rule != "exact") if isinstance(defence, Defended) else (),
        source=classifier if purified else None,
    )
    bar = _Bar()
    report = evaluate(
        defence,
        x,
        y,
        attacks,
        seed=config.seed,
        index=index,
        batch_size=config.batch_size,
        passes=config.passes,
        exhaustive=config.exhaustive,
        pixels=config.pixels,
        folder=folder.path / "evaluation",
        source=classifier if purified else None,
        progress=bar,
    )
    bar.finish()
    result = {
        "data": config.data,
        "split": "test",
        "model": config.model,
        **report.to_json(),
        "environment": folder.read_json("environment.json"),
    }
    folder.write_json("result.json", result)
    if config.norm in info.eps or config.eps:
        _figure(defence, x, y, config, float(eps or 0.0), folder)
    print(f"{config.data} test split, {Path(config.model).name}, purifier {config.purifier.kind}, suite {config.suite}")
    print(report)
    print(f"\neverything else is in {folder.path}/")


def defended(classifier: nn.Module, settings: PurifierSettings) -> nn.Module:
    """The classifier behind the purifier of these settings; alone for kind none."""
    if settings.kind == "none":
        return classifier
    if settings.kind == "noise":
        return Defended(GaussianNoise(settings.std), classifier)
    mae: Any = rp_models.load(settings.model)
    if settings.kind == "mae-reconstruction":
        return Defended(MAEReconstruction(mae, mask_rate=settings.mask_rate), classifier)
    purifier = MAEPure(
        mae,
        steps=settings.steps,
        step_size=settings.step_size,
        mask_rate=settings.mask_rate,
        eta=settings.eta,
        masks=settings.masks,
    )
    return Defended(purifier, classifier)


def _load_classifier(model: str, info: DatasetInfo) -> nn.Module:
    """The checkpoint's classifier, checked on one image of the data set."""
    import torch

    classifier = rp_models.load(model)
    x = torch.zeros(1, info.channels, info.image_size, info.image_size)
    try:
        with torch.no_grad():
            logits = classifier(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{model} does not take the images of {info.name} ({str(error).splitlines()[0]})") from error
    if tuple(logits.shape) != (1, info.num_classes):
        raise DataError(f"{model} gives {tuple(logits.shape)}, expected logits for {info.num_classes} classes")
    return classifier


def _figure(defence: Classifier, x: Any, y: Any, config: Evaluation, eps: float, folder: RunFolder) -> None:
    """Accuracy against the radius under a 20-step PGD on at most 100 images: a first look, not the verdict."""
    if config.norm != "linf" or eps == 0:
        return
    few = slice(0, min(100, len(x)))
    attack = PGD(eps=eps, step_size=eps / 8, steps=20, loss="cw", eot=5 if config.purifier.kind != "none" else 1)
    radii = tuple(min(factor * eps, 1.0) for factor in RADII)
    points = accuracy_curve(defence, x[few], y[few], attack, radii, seed=config.seed, batch_size=config.batch_size)
    curve = RobustnessCurve(
        eps=radii,
        accuracy=tuple(point.accuracy.estimate for point in points),
        low=tuple(point.accuracy.low for point in points),
        high=tuple(point.accuracy.high for point in points),
        images=len(x[few]),
    )
    plot_robustness_curves({Path(config.model).stem: curve}).save(folder.path / "figures" / "accuracy_over_eps")


class _Bar:
    """Shows an evaluation's blocks as progress."""

    def __init__(self) -> None:
        self.bar, self.done = ProgressBar(), 0
        self.bar.start("evaluate", 0, 0)

    def __call__(self, event: Progress) -> None:
        self.done += 1
        self.bar.advance(self.done, {f"{event.stage}, standing": event.standing / max(event.images, 1)})

    def finish(self) -> None:
        self.bar.finish()
