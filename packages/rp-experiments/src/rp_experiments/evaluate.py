"""The work of `evaluate.py`: defence, attacks, report, and the figure of accuracy against the radius.

Processes share the blocks of images.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import rp_attacks
from rp_analysis.plots import RobustnessCurve, plot_robustness_curves
from rp_attacks import PGD, Report, accuracy_curve, suite
from rp_attacks import Progress as Event
from rp_attacks.defence import Classifier
from rp_attacks.forecast import Forecast, forecast
from rp_attacks.problem import Attack
from rp_attacks.radii import usual_radius
from rp_attacks.record import is_random
from rp_attacks.store import usual_block_size
from rp_attacks.watch import Watcher
from rp_models.checkpoint import read_header
from rp_models.data import DatasetInfo, default_split, describe
from rp_models.data.datasets import open_subset
from rp_models.loading import load_classifier
from rp_models.precision import full_precision, in_precision, use
from rp_models.training.tensorboard import TensorBoard
from rp_purify import Defended
from rp_purify.build import build_purifier
from rp_purify.settings.base import ROLES, PurifierSettings
from torch import Tensor, nn

from rp_experiments.attack_log import AttackLog
from rp_experiments.cautions import cautions, tell
from rp_experiments.evaluation_bar import EvaluationBar, blocks
from rp_experiments.networks import standard_classifier
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.reports import eot_figure
from rp_experiments.reports.eot_figure import plot_eot_convergence
from rp_experiments.run import Run

RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # of the figure, in multiples of the suite's radius
CURVE, CONVERGENCE = "results/curve.json", "results/convergence.json"


def evaluate(config: Evaluation, run: Run, *, tensorboard: bool = False, compiled: bool = False) -> None:
    """Evaluate, print the report, and leave `result.json`, the adversarial images and the figure in the folder.

    With `tensorboard` the first process logs every step of its attacks; `compiled`: see `Run`.
    """
    run.compiled = compiled
    attacked = EvaluationJob.of(config, run)
    board = TensorBoard(run.folder) if tensorboard and run.main else None
    watcher = AttackLog(run.folder) if board else None
    report = attacked.shared_report(run, beside=partial(_figures, attacked, run), watcher=watcher)
    if board:
        board.close()
    if report is not None:
        _leave(report, attacked, run.alone())


def classifier_of(config: Evaluation, model: str, run: Run) -> nn.Module:
    """The network of a name or file, where the run computes, in the precision that the settings name."""
    use(config.compute)
    classifier = load_classifier(model, describe(config.data)).to(run.device)
    if run.compiled:
        classifier.requires_grad_(False).compile()  # so that no gradients of weights are compiled
    return in_precision(classifier, config.compute.precision)


class EvaluationJob:
    """A classifier, perhaps behind a purifier, the images on which it is attacked, and the attacks."""

    def __init__(self, config: Evaluation, model: str, run: Run) -> None:
        self.folder, self.processes = run.path / "evaluation", run.processes.count
        self.config = config
        info, compute = describe(config.data), config.compute
        classifier = classifier_of(config, model, run)
        self.model: Classifier = classifier
        shorter: dict[str, Any] = {}  # purifiers from which images are transferred
        if config.defended:

            def behind(purifier: PurifierSettings) -> nn.Module:
                made = build_purifier(purifier, info, run.device, classifier=classifier, precision=compute.precision)
                return Defended(made, classifier).eval()

            self.model = behind(config.purifier)
            guides = config.purifier.guides(config.budget.surrogate_steps)
            shorter = {name: behind(choice) for name, choice in guides.items()}
        self.source = classifier if config.defended else None  # the classifier without its purifier
        self.split = config.split or _split(config.data, model)
        self.x, self.y, self.index = self.images(run)
        self.eps = config.eps  # None: the suite's own
        if self.eps is None and "linf" in info.eps:
            shape = (info.channels, info.image_size, info.image_size)
            self.eps = usual_radius(config.ball, shape=shape, linf=info.eps["linf"])
        if config.defended and run.main:
            networks = [getattr(config.purifier, role, "") for role in ROLES]
            tell(config.purifier.kind, cautions(config.purifier, self.eps, filter(None, networks)))
        self.attacks = self.suite(info, shorter)

    def images(self, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """The images to attack, their labels, and their positions in the split."""
        count = self.config.sizes.images
        images, index = open_subset(self.config.data, self.split, count, device=run.device, root=run.root)
        return *images.batch(slice(None)), index

    def suite(self, info: DatasetInfo, shorter: Mapping[str, Any]) -> Mapping[str, Attack]:
        """The attacks of the suite, none where the job has its own."""
        config = self.config
        if config.attacks is None:
            return {}
        return suite(
            config.attacks,
            eps=self.eps,
            norm=config.ball,
            random=config.defended,
            classes=info.num_classes,
            defence=self.model,
            source=self.source,
            budget=config.budget,
            **shorter,
        )

    @property
    def block_size(self) -> int:
        """Images of a saved block: as the settings say, or so few that each process has a block."""
        usual = usual_block_size(self.folder, len(self.x), self.processes)
        return self.config.block_size or min(self.config.sizes.block_size, usual)

    @classmethod
    def of(cls, config: Evaluation, run: Run) -> Self:
        """The job of a run, which it claims; without a model that of the data set's standard classifier."""
        job = cls(config, config.model or standard_classifier(config.data, run), run)
        run.claim(config.resolved())
        return job

    def forecast(self) -> Forecast:
        """What the attacks cost at most."""
        config = self.config
        return forecast(
            self.model,
            self.x[:32],
            self.y[:32],
            self.attacks,
            random=config.defended,
            passes=config.sizes.passes,
            images=len(self.x),
        )

    def report(
        self,
        folder: Path,
        *,
        shard: tuple[int, int] = (0, 1),
        progress: Callable[[Event], None] | None = None,
        watcher: Watcher | None = None,
    ) -> Report:
        """Attack and judge this process's blocks, or take from the folder what is there."""
        config, sizes = self.config, self.config.sizes
        return rp_attacks.evaluate(
            self.model,
            self.x,
            self.y,
            self.attacks,
            seed=config.seed,
            index=self.index,
            batch_size=config.batch_size,
            block_size=self.block_size,
            passes=sizes.passes,
            probes=sizes.probes,
            exhaustive=config.exhaustive,
            pixels=config.pixels,
            folder=folder,
            shard=shard,
            source=self.source,
            full_precision=None if config.compute.precision == "fp32" else full_precision,
            progress=progress,
            watcher=watcher,
        )

    def shared_report(
        self, run: Run, beside: Callable[[], None] = lambda: None, watcher: Watcher | None = None
    ) -> Report | None:
        """The report of all processes' blocks, in the first one; the last one does `beside` before it gathers them."""
        rank, count, folder = run.processes.rank, run.processes.count, run.path / "evaluation"
        bar = EvaluationBar(run.progress, "evaluate", blocks(self.attacks, len(self.x), self.block_size, count))
        if run.main:
            print(f"forecast: {self.forecast()}", file=sys.stderr)
        if count > 1:
            self.report(folder, shard=(rank, count), progress=bar, watcher=watcher)
            run.processes.wait()
        if rank == count - 1:  # while the first one looks for findings
            beside()
        report = self.report(folder, progress=bar, watcher=watcher) if run.main else None
        run.processes.wait()
        return report

    def curve(self) -> list[dict[str, Any]]:
        """Accuracy against the Linf radius under a short PGD on the first 100 images, behind a purifier on 32.

        A first look, not the verdict; empty for other norms.
        """
        if self.config.ball != "linf" or not self.eps:
            return []
        count, steps, eot = (32, 10, 2) if self.config.defended else (100, 20, 1)
        x, y = self.x[:count], self.y[:count]
        attack = PGD(eps=self.eps, step_size=2.5 * self.eps / steps, steps=steps, loss="cw", eot=eot)
        radii = tuple(min(factor * self.eps, 1.0) for factor in RADII)
        points = accuracy_curve(
            self.model, x, y, attack, radii, seed=self.config.seed, batch_size=self.config.batch_size
        )
        return [
            {"eps": eps, **point.accuracy._asdict(), "of": len(x)} for eps, point in zip(radii, points, strict=True)
        ]

    def convergence(self) -> list[dict[str, float]]:
        """Agreement of the mean gradient of M passes with that of others; empty without a random purifier."""
        config, most = self.config, self.config.sizes.convergence
        if not (most and config.defended) or not is_random(self.model, self.x[:8], index=self.index[:8]):
            return []
        return eot_figure.measure(
            self.model, self.x, self.y, index=self.index, seed=config.seed, most=most, batch_size=config.batch_size
        )


def _figures(attacked: EvaluationJob, run: Run) -> None:
    for file, points in ((CURVE, attacked.curve), (CONVERGENCE, attacked.convergence)):
        if not (run.path / file).exists():
            run.folder.write_json(file, points())


def _leave(report: Report, attacked: EvaluationJob, run: Run) -> None:
    """Write `result.json` and the figure, and print the report."""
    config, points = attacked.config, run.folder.read_json(CURVE)
    convergence = run.folder.read_json(CONVERGENCE)
    if convergence:
        plot_eot_convergence({config.name: convergence}).save(run.path / "figures" / "eot_convergence")
    if points:
        eps, accuracy, low, high = (tuple(p[key] for p in points) for key in ("eps", "estimate", "low", "high"))
        drawn = RobustnessCurve(eps, accuracy, low, high, images=points[0]["of"])
        plot_robustness_curves({config.model_name: drawn}).save(run.path / "figures" / "accuracy_over_eps")
    where = {"data": config.data, "split": attacked.split, "model": config.model or config.model_name}
    run.finish({**where, **report.to_json(), **({"convergence": convergence} if convergence else {})})
    front = config.purifier.kind if config.defended else "none"
    of = f"{len(report.clean)} images of {config.data}, split {attacked.split}"
    print(f"{of}, {config.model_name}, purifier {front}, suite {config.suite}")
    print(report)


def _split(data: str, model: str) -> str:
    """The split to judge on where none is named: of a file without splits all, unless the model was trained on it."""
    split = default_split(data)
    if split != "all":
        return split
    known = Path(model).is_file() and Path(str(read_header(model).notes.get("data", ""))).name == Path(data).name
    if known:
        text = f"{model} was trained on {data}: its test split is attacked; --split all attacks every image"
    else:
        text = f"{data} has no splits: all its images are attacked; if the model was trained on it, name --split test"
    print(text, file=sys.stderr)
    return "test" if known else split
