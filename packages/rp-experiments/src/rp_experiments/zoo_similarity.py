"""`analyze.py --models`: how similar RobustBench's models are to a diffusion model, and how robust (Fig. 1 and 9).

One model is in memory at a time; its features of all images are kept until it is compared, then its scores alone.
"""

import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rp_analysis.plots import plot_cknna_comparison, plot_cknna_scatter
from rp_analysis.similarity import SimilarityPoint, cknna, mutual_knn
from rp_dra import EdmTarget
from rp_models import noise
from rp_models.checkpoint import CheckpointError
from rp_models.data import describe
from rp_models.data.datasets import open_subset
from rp_models.loading import load_classifier, load_denoiser, pooled_features
from rp_models.precision import in_precision, use
from rp_models.robustbench.entries import Entry, entries
from rp_models.robustbench.loading import load_entry
from rp_models.robustbench.places import files_at_hand
from torch import Tensor, nn

from rp_experiments.pages import Sections
from rp_experiments.recipes.analysis import Analysis, ZooComparison
from rp_experiments.run import Run
from rp_experiments.statistics import correlation, rank_test

LABELLED = 25  # points whose names still fit into the figure


def compare_models(config: Analysis, run: Run, zoo: ZooComparison) -> None:
    """Compare, and leave `result.json`, the table, both figures and a page."""
    chosen = zoo.named() if zoo.models != ("all",) else at_hand(zoo)
    settings = asdict(zoo) | {"models": [entry.spec for entry in chosen], "standard": _standard(zoo)}
    own = {key: asdict(config)[key] for key in ("images", "neighbours", "seed", "compute")}
    job = ZooJob(config, run, zoo, chosen, settings["standard"])
    run.claim(own | settings)
    job.compare()


def at_hand(zoo: ZooComparison) -> tuple[Entry, ...]:
    """The entries of the data set and threat model whose files are there. Raises CheckpointError if there is none."""
    listed = [e for e in entries() if (e.dataset, e.threat) == (zoo.data, zoo.threat)]
    listed = [entry for entry in listed if not entry.missing and entry.name != "Standard"]
    found = tuple(entry for entry in listed if files_at_hand(entry))
    if not found:
        raise CheckpointError(
            f"no file of RobustBench's {len(listed)} models for {zoo.data} {zoo.threat} is there; RP_ROBUSTBENCH names "
            f"their folder, in which they are {zoo.data}/{zoo.threat}/NAME.pt"
        )
    print(f"{len(found)} of {len(listed)} models of {zoo.data} {zoo.threat} are there", file=sys.stderr)
    return found


def _standard(zoo: ZooComparison) -> str | None:
    """The standard classifier's name, if there is one."""
    if zoo.standard is not None:
        return zoo.standard
    listed = [e for e in entries() if (e.dataset, e.threat, e.name) == (zoo.data, zoo.threat, "Standard")]
    return next((entry.spec for entry in listed if files_at_hand(entry)), None)


class ZooJob(Sections):
    """One comparison; the references are loaded before its folder is claimed."""

    def __init__(
        self, config: Analysis, run: Run, zoo: ZooComparison, chosen: tuple[Entry, ...], standard: str | None
    ) -> None:
        super().__init__(run, "RobustBench's models beside a diffusion model")
        self.config, self.zoo, self.chosen = config, zoo, chosen
        use(config.compute)
        info, self.precision = describe(zoo.data), config.compute.precision
        self.test, self.index = open_subset(zoo.data, "test", config.images, device=run.device, root=run.root)
        denoiser = load_denoiser(str(zoo.edm), info).to(run.device)
        self.target = EdmTarget(denoiser, sigma=zoo.sigma, layer=zoo.layer, precision=self.precision)
        self.standard = None if standard is None else self._ready(load_classifier(standard, info))
        self.k = min(config.neighbours, len(self.test) - 1)

    def compare(self) -> None:
        """References, then model by model, then the figures."""
        references = {"diffusion": self.features(self.target)}
        if self.standard is not None:
            references["standard"] = self.features(self.standard)
        self.run.progress.start("models", len(self.chosen))
        rows: list[dict[str, Any]] = []
        for number, entry in enumerate(self.chosen, start=1):
            name = f"similarity/{entry.dataset}-{entry.threat}-{entry.name}.json"
            rows.append(self.run.once(name, partial(self._scores, entry, references), stage="models"))
            self.run.progress.advance(number)
        self.run.progress.finish()
        self._leave(rows, list(references))

    @torch.no_grad()
    def features(self, model: nn.Module) -> Tensor:
        """A network's features of all images, (n, d) on the CPU; of the diffusion model with each image's own noise."""
        found = []
        for rows in torch.arange(len(self.test), device=self.test.device).split(self.zoo.batch_size):
            x, _ = self.test.batch(rows)
            if isinstance(model, EdmTarget):
                index = self.index[rows]
                eps = noise.normal(x.shape[1:], seed=self.config.seed, purpose="similarity", index=index)
                found.append(model(x, None, noise=eps).cpu())
            else:
                found.append(pooled_features(model, x).cpu())
        return torch.cat(found)

    def _ready(self, model: nn.Module) -> nn.Module:
        """A classifier where the run computes, in its precision."""
        return in_precision(model.to(self.run.device), self.precision)

    def _scores(self, entry: Entry, references: dict[str, Tensor]) -> dict[str, Any]:
        """One model's similarity to each reference, beside its published accuracies."""
        features = self.features(self._ready(load_entry(entry)))
        row: dict[str, Any] = {"model": entry.name, "threat": entry.threat, "clean %": entry.clean}
        row |= {"robust %": entry.robust, "extra data": "yes" if entry.extra_data else "no"}
        for name, reference in references.items():
            row[f"CKNNA, {name}"] = cknna(features, reference, k=self.k)
            row[f"mutual kNN, {name}"] = mutual_knn(features, reference, k=self.k)
        return row

    def _leave(self, rows: list[dict[str, Any]], references: list[str]) -> None:
        """Table, correlations, figures and page."""
        zoo, count = self.zoo, len(self.test)
        self.page.text(
            f"{len(rows)} models of RobustBench, {count} test images of {zoo.data}, k = {self.k}; unconditional "
            f"features of the diffusion model at noise level {zoo.sigma:g}, layer {zoo.layer}; published accuracies."
        )
        self.table("similarity", sorted(rows, key=lambda row: -row["robust %"]), "the most robust first")
        points = {
            name: [SimilarityPoint(row["model"], row["robust %"] / 100, row[f"CKNNA, {name}"]) for row in rows]
            for name in references
        }
        self.figure("cknna", plot_cknna_scatter(points["diffusion"], label=len(rows) <= LABELLED), "Fig. 1 of DRA")
        if "standard" in points:
            both = plot_cknna_comparison(points["diffusion"], points["standard"])
            self.figure("cknna-standard", both, "Fig. 9 of DRA: similarity to the standard classifier beside it")
        tests = {name: _correlated(of) for name, of in points.items()}
        for name, test in tests.items():
            text = f"Rank correlation of robust accuracy with CKNNA, {name}: {_told(test)}."
            self.page.text(text)
            print(text)
        self.run.finish({"models": rows, "images": count, "neighbours": self.k, "correlation": tests})
        print(f"page: {self.page.write(self.run.path / 'index.html')}")


def _correlated(points: list[SimilarityPoint]) -> dict[str, Any] | None:
    """Spearman's correlation over the models that have a score, its p-value and interval; None for fewer than two."""
    scored = [point for point in points if point.score == point.score]
    if len(scored) < 2:
        return None
    test = rank_test([point.robust_accuracy for point in scored], [point.score for point in scored])
    return {**test, "interval": correlation(test["estimate"], len(scored))}


def _told(test: dict[str, Any] | None) -> str:
    """A correlation in words."""
    if test is None:
        return "too few models"
    limits = test["interval"]
    between = "" if limits is None else f" [{limits['low']:+.2f}, {limits['high']:+.2f}]"
    return f"{test['estimate']:+.2f}{between}, p = {test['p']:.2g}, over {test['points']} models"
