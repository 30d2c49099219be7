"""The work of `evaluate.py`: defence, attacks, report, and the figure of accuracy against the radius."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.evaluation import Evaluation
from rp_analysis import RobustnessCurve, plot_robustness_curves
from rp_attacks import PGD, Classifier, Norm, Progress, Report, accuracy_curve, evaluate, suite
from rp_models.data import DataError, describe
from rp_models.training import ProgressBar, RunFolder
from rp_purify import Defended
from torch import nn

from jobs.device import choose_device
from jobs.judged_images import judged_images
from jobs.network_cache import standard_classifier
from jobs.networks import load_classifier
from jobs.purifiers import build_purifier

SUITE_NORMS: dict[str, Norm] = {"pgd200-eot20-l2": "l2", "pgd200-eot20-l1": "l1", "cw-eot": "l2", "deepfool-eot": "l2"}
RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # of the figure, in multiples of the suite's radius


def run(config: Evaluation, out: Path, *, resume: bool, device: str, cache: Path, root: Path | None = None) -> None:
    """Evaluate, print the report, and leave `result.json`, the adversarial images and the figure in the folder.

    Args:
        config: everything that determines the numbers.
        out: the run's folder.
        resume: go on with the evaluation that is there.
        device: where to compute.
        cache: where a standard classifier is kept, which is taken if the settings name none.
        root: folder of the data sets; None for the usual places.

    Raises:
        CheckpointError: if a checkpoint cannot be read.
        RunError: if the folder cannot be used.
        DataError: if the classifier does not fit the data set, or there is no such device.
    """
    if config.suite in ("bpda-eot20", "purifier") and not config.defended:
        raise DataError(f"suite {config.suite} replaces a purifier's backward pass; put one in front with --defended")
    where = choose_device(device)
    info = describe(config.data)
    model = config.model or standard_classifier(config.data, cache=cache, device=where, root=root)
    classifier = load_classifier(model, info).to(where)
    defence: nn.Module = classifier
    if config.defended:
        defence = Defended(build_purifier(config.purifier, info, where), classifier).eval()
    folder = RunFolder.open(out, asdict(config), resume=resume)
    images, index = judged_images(config.data, "test", config.images, device=where, root=root)
    x, y = images.batch(slice(None))
    norm = SUITE_NORMS.get(config.suite, config.norm)
    eps = info.eps.get(norm) if config.eps is None else config.eps  # None: the suite's own
    attacks = suite(
        config.suite,
        eps=eps,
        norm=norm,
        random=config.defended,
        classes=info.num_classes,
        gradients=tuple(rule for rule in defence.gradients if rule != "exact") if isinstance(defence, Defended) else (),
        source=classifier if config.defended else None,
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
        probes=config.probes,
        exhaustive=config.exhaustive,
        pixels=config.pixels,
        folder=folder.path / "evaluation",
        source=classifier if config.defended else None,
        progress=bar,
    )
    bar.finish()
    if norm == "linf" and eps:
        _figure(defence, x, y, config, eps, folder)
    _leave(report, config, folder)


def _leave(report: Report, config: Evaluation, folder: RunFolder) -> None:
    """Write `result.json` and print the report."""
    result = {
        "data": config.data,
        "split": "test",
        "model": config.model or config.model_name,
        **report.to_json(),
        "environment": folder.read_json("environment.json"),
    }
    folder.write_json("result.json", result)
    front = config.purifier.kind if config.defended else "none"
    print(f"{config.data} test split, {config.model_name}, purifier {front}, suite {config.suite}")
    print(report)
    print(f"\neverything else is in {folder.path}/")


def _figure(defence: Classifier, x: Any, y: Any, config: Evaluation, eps: float, folder: RunFolder) -> None:
    """Accuracy against the radius under a 20-step PGD on at most 100 images: a first look, not the verdict."""
    few = slice(0, min(100, len(x)))
    attack = PGD(eps=eps, step_size=eps / 8, steps=20, loss="cw", eot=5 if config.defended else 1)
    radii = tuple(min(factor * eps, 1.0) for factor in RADII)
    points = accuracy_curve(defence, x[few], y[few], attack, radii, seed=config.seed, batch_size=config.batch_size)
    curve = RobustnessCurve(
        eps=radii,
        accuracy=tuple(point.accuracy.estimate for point in points),
        low=tuple(point.accuracy.low for point in points),
        high=tuple(point.accuracy.high for point in points),
        images=len(x[few]),
    )
    plot_robustness_curves({config.model_name: curve}).save(folder.path / "figures" / "accuracy_over_eps")


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
