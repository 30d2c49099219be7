"""The work of `finetune_purifier.py` for ADBM and ADDT: a denoiser tuned against an adversary, before and after."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_analysis.plots import plot_image_grid
from rp_attacks import PGD
from rp_models import noise
from rp_models.data import describe, open_images
from rp_models.data.datasets import DataError, open_subset
from rp_models.loading import load_classifier, load_denoiser
from rp_models.training import state_path
from rp_models.training.edm import edm_held_out
from rp_purify import Defended, DiffPure, Purifier
from rp_purify.ddim_purify import DDIMPurify
from rp_purify.tuning import DenoiserTuner
from torch import Tensor, nn

from rp_experiments import tables
from rp_experiments.estimate import fitted
from rp_experiments.networks import standard_classifier
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.results import Accuracy, classified
from rp_experiments.run import Run

COLUMNS = 10  # images on the sheet
TITLES = {"adbm": "ADBM", "addt": "ADDT"}


class TuneJob:
    """One run for kind adbm or addt; networks and images are loaded before its folder is claimed."""

    def __init__(self, config: Finetuning, run: Run) -> None:
        self.config, self.run = config, run
        self.settings = config.tuning
        self.info = describe(config.data)
        self.classifier = load_classifier(config.classifier or standard_classifier(config.data, run), self.info)
        self.classifier.to(run.device)
        if int(getattr(self.original(), "label_dim", 0)):
            raise DataError(f"kind {config.kind} needs a denoiser without classes, {config.edm} has classes")
        self.train = open_images(config.data, "train", root=run.root).to(run.device)
        self.test, self.index = open_subset(config.data, "test", config.images, device=run.device, root=run.root)

    def original(self) -> nn.Module:
        """The denoiser as it was pre-trained."""
        return load_denoiser(self.config.edm, self.info).to(self.run.device)

    def purifier(self, denoiser: nn.Module) -> Purifier:
        """What purifies with the denoiser: ADBM's few DDIM steps, or DiffPure."""
        times, steps = self.config.times, self.config.reverse_steps
        if self.config.kind == "adbm":
            return DDIMPurify(denoiser, times=times, steps=steps)
        return DiffPure(denoiser, times=times, steps=steps)

    def finetuned(self) -> Path:
        """The checkpoint of the tuned denoiser, the average of its weights, made unless it is there."""
        config, run, name = self.config, self.run, self.config.product
        product = run.path / "checkpoints" / f"{name}.safetensors"
        if not run.has(f"checkpoints/{name}.safetensors"):
            trainer = self.trainer()
            run.train(trainer, stage=name, steps=self.settings.steps, seed=config.seed, log_every=10)
            run.first(lambda: rp_models.save(trainer.average.eval(), product, notes={"finetuned": asdict(config)}))
        run.first(lambda: state_path(run.folder, name).unlink(missing_ok=True))
        return product

    def trainer(self) -> DenoiserTuner:
        """The trainer of the denoiser."""
        config, run, denoiser = self.config, self.run, self.original()
        return DenoiserTuner(
            self.settings,
            denoiser,
            self.classifier,
            self.train,
            compute=fitted.tuning(config, run, config.product, denoiser, self.classifier),
            processes=run.processes,
            seed=config.seed,
        )

    def report(self, product: Path) -> None:
        """What tuning changed, on the test images: `result.json`, a sheet, and a table on the terminal."""
        tuned = rp_models.load(product, device=self.run.device)
        x, _ = self.test.batch(slice(None))
        attacked = self.attacked(self.classifier, "attack on the classifier")
        rows, sheet = {}, {"clean": x[:COLUMNS], "attacked": attacked[:COLUMNS]}
        for name, denoiser in {"before": self.original(), "after": tuned}.items():
            defended = Defended(self.purifier(denoiser), self.classifier).eval().requires_grad_(False)
            rows[name] = self.judged(name, defended, attacked)
            sheet[f"purified {name}"] = self.purified(defended.purifier, attacked[:COLUMNS])
        attack = self.config.attack
        setting = {
            "data": self.config.data,
            "images": len(self.test),
            "attack": f"PGD-{attack.judging_steps}, {attack.eot} passes a gradient, exact gradient",
            "eps": attack.eps,
            "seed": self.config.seed,
        }
        self.run.finish({"setting": setting, **rows})
        plot = plot_image_grid(sheet, title="attack on the classifier alone")
        plot.save(self.run.path / "figures" / "purified", formats=("png",))
        heads = {"clean": "clean", "pgd_on_classifier": "PGD on classifier", "pgd_on_system": "PGD on system"}
        title = TITLES[self.config.kind]
        lines = [
            {"": f"{title}, {name}", **{head: row[key] for key, head in heads.items()}, "loss": row["denoising_loss"]}
            for name, row in rows.items()
        ]
        where = f"{setting['data']}, {setting['images']} test images, Linf {attack.eps:.4g}, {setting['attack']}"
        print(f"{where}\n\n{tables.text(lines)}\n\ncheckpoint: {product}")

    def judged(self, name: str, defended: Defended, attacked: Tensor) -> dict[str, Any]:
        """Accuracies of a purifier with the classifier, and the denoising loss; `attacked` through the classifier."""
        x, _ = self.test.batch(slice(None))
        adaptive = self.attacked(defended, f"attack on the system {name}")
        denoiser: Any = defended.purifier.model
        return {
            "clean": self.accuracy(defended, x),
            "pgd_on_classifier": self.accuracy(defended, attacked),
            "pgd_on_system": self.accuracy(defended, adaptive),
            "denoising_loss": edm_held_out(denoiser, self.test, seed=self.config.seed),
        }

    def attacked(self, model: nn.Module, title: str) -> Tensor:
        """The test images attacked by PGD through a model, purified or not, with its exact gradient."""
        settings, parts = self.config.attack, []
        pgd = PGD(eps=settings.eps, step_size=settings.step_size, steps=settings.judging_steps, eot=settings.eot)
        seed = noise.derive_seed(self.config.seed, "judging attack")
        self.run.progress.start(title, len(self.test))
        for rows in self.batches():
            x, y = self.test.batch(rows)
            parts.append(pgd(model, x, y, seed=seed, index=self.index[rows]))
            self.run.progress.advance(int(rows[-1]) + 1)
        self.run.progress.finish()
        return torch.cat(parts)

    @torch.no_grad()
    def purified(self, purifier: Purifier, x: Tensor) -> Tensor:
        """Purified images, with the noise that judges everywhere."""
        seed = noise.derive_seed(self.config.seed, "judging")
        rows = torch.arange(len(x), device=x.device).split(self.config.batch_size)
        return torch.cat([purifier(x[part], seed=seed, index=self.index[part]) for part in rows])

    @torch.no_grad()
    def accuracy(self, defended: Defended, x: Tensor) -> Accuracy:
        """Share of the test images that are classified correctly after purification, with its 95% interval."""
        x = self.purified(defended.purifier, x)
        return classified(defended.classifier, ((x[rows], self.test.labels[rows]) for rows in self.batches()))

    def batches(self) -> Iterator[Tensor]:
        """Positions of the test images, batch by batch."""
        yield from torch.arange(len(self.test), device=self.run.device).split(self.config.batch_size)
