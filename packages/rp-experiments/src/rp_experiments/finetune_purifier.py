"""The work of `finetune_purifier.py`: adversarial images, fine-tuning on them, and the purifier before and after."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import rp_models
import torch
from rp_analysis.plots import plot_image_grid
from rp_attacks import PGD
from rp_models import noise
from rp_models.data import Images, describe, open_images, read_synthetic, subset, write_synthetic
from rp_models.data.datasets import DataError, open_subset, to_bytes
from rp_models.data.synthetic import part_path
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.loading import load_classifier, load_mae, load_maskdit
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.training import state_path
from rp_purify import (
    Defended,
    Finetuner,
    MAEPure,
    MAEReconstruction,
    MAEView,
    MaskDiTPure,
    MaskDiTView,
    OneStepDenoise,
    Purifier,
    SignDescent,
    adversarial_batch,
    variation,
)
from torch import Tensor, nn
from torch.nn import functional as F

from rp_experiments import tables
from rp_experiments.cautions import cautions, far_rates, tell
from rp_experiments.estimate import fitted
from rp_experiments.networks import standard_classifier
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.results import Accuracy, classified
from rp_experiments.run import Run
from rp_experiments.tune_denoiser import TuneJob

CAUTION = (
    "PGD differentiates the sign steps as the identity, which says little about a purifier: these are no robust "
    "accuracies. evaluate.py runs the suite that is one."
)
Masked = MaskedAutoencoder | MaskDiT
COLUMNS = 10  # images on the sheet
BLOCK = 8  # batches in a file of stage I: so many a kill loses at most


def finetune_purifier(config: Finetuning, run: Run) -> None:
    """Train the network, and judge the purifier before and after."""
    job = job_of(config, run)
    if run.main and config.kind in ("mae", "maskdit"):
        rates = far_rates(config.finetune.mask_rate, config.descent.mask_rate)
        tell(config.product, [*cautions(config.descent, config.attack.eps), *filter(None, [rates])])
    run.claim(config)
    product = job.finetuned()
    run.first(lambda: job.report(product))


def job_of(config: Finetuning, run: Run) -> "FinetuneJob | TuneJob":
    """The job of the configured kind."""
    return TuneJob(config, run) if config.kind in ("adbm", "addt") else FinetuneJob(config, run)


class Purifiers(NamedTuple):
    """The forms in which robust fine-tuning uses one network."""

    one_shot: MAEReconstruction | OneStepDenoise  # one reconstruction or denoising step
    trained: Purifier  # what is trained through: that, or a few sign steps that have a derivative
    descent: SignDescent  # MAE-Pure or MaskDiT-Pure, which is judged
    view: MAEView | MaskDiTView  # how AMV looks at images


class FinetuneJob:
    """One run of `finetune_purifier.py`; networks and images are loaded before its folder is claimed."""

    def __init__(self, config: Finetuning, run: Run) -> None:
        self.config, self.run = config, run
        self.info = describe(config.data)
        self.classifier = load_classifier(config.classifier or standard_classifier(config.data, run), self.info)
        self.classifier.to(run.device)
        original = self.load_original()
        try:
            self.purifiers(original)  # complains now, not after stage I
        except ValueError as error:  # a purifier's own check of its settings against the network
            raise DataError(f"purifier: {error}") from error
        train: Images = open_images(config.data, "train", root=run.root)
        self.train = (subset(train, config.train_images) if config.train_images else train).to(run.device)
        self.test, self.index = open_subset(config.data, "test", config.images, device=run.device, root=run.root)

    def load_original(self) -> Masked:
        """The network as it was pre-trained."""
        config = self.config
        if config.kind == "mae":
            return load_mae(config.mae, self.info).to(self.run.device)
        return load_maskdit(config.maskdit, self.info).to(self.run.device)

    def purifiers(self, model: Masked) -> Purifiers:
        """The purifiers around one network."""
        config, rate = self.config, self.config.descent.mask_rate
        if isinstance(model, MaskedAutoencoder):
            one_shot: MAEReconstruction | OneStepDenoise = MAEReconstruction(
                model,
                mask_rate=config.one_shot_mask_rate,
                std=config.one_shot_noise_std,
                keep_visible=config.one_shot_keep_visible,
            )
            pure: Callable[..., SignDescent] = partial(MAEPure, model)
            view: MAEView | MaskDiTView = MAEView(model=model, mask_rate=rate)
        else:
            one_shot = OneStepDenoise(model, sigma=config.sigma)
            pure = partial(MaskDiTPure, model, sigma=config.sigma)
            view = MaskDiTView(model=model, sigma=config.sigma, mask_rate=rate)
        trained = one_shot if config.through == "one-shot" else pure(**asdict(config.unrolled), grad="ste-tanh")
        return Purifiers(one_shot, trained, pure(**asdict(config.descent)), view)

    def adversarial(self) -> Images:
        """Stage I: training images attacked through the original purifier, as files hold them, a block in each."""
        count = -(-len(self.train) // (BLOCK * self.config.batch_size))
        files = [part_path(self.run.path / "adversarial" / "images.npz", n, count) for n in range(count)]
        if not self.run.everywhere(lambda: all(file.exists() for file in files)):
            self._attack(files)
        return read_synthetic(files, self.train.info).to(self.run.device)

    def _attack(self, files: Sequence[Path]) -> None:
        """Make the files of stage I that are not there; processes share them."""
        with self.run.timed("stage I"):
            self.run.progress.start("stage I", len(self.train))
            attacked = self.classifier
            if self.config.attack.on == "system":
                attacked = Defended(self.purifiers(self.load_original()).trained, self.classifier)
            for number, file in self.run.share(list(enumerate(files))):
                if not file.exists():
                    x, y = zip(*self._attacked(attacked, number), strict=True)
                    write_synthetic(torch.cat(x), torch.cat(y), file)
            self.run.progress.finish()

    def _attacked(self, attacked: nn.Module, block: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A block's images with Gaussian noise, attacked (Eq. 5 of MAE-Pure), as bytes, and labels, batch by batch.

        Those of `rp_purify.adversarial_images`, to the byte.
        """
        config, settings = self.config, self.config.attack
        grad = "exact" if config.through == "one-shot" or settings.on == "classifier" else "identity"
        pgd = PGD(eps=settings.eps, step_size=settings.step_size, steps=settings.steps, start=settings.start, grad=grad)
        attack_seed = noise.derive_seed(config.seed, "stage I")
        for number in range(block * BLOCK, (block + 1) * BLOCK):
            rows = slice(number * config.batch_size, min((number + 1) * config.batch_size, len(self.train)))
            if rows.start >= rows.stop:
                return
            attack = partial(pgd, seed=noise.derive_seed(attack_seed, number + 1))  # random numbers of its own
            std = config.finetune.noise_std
            x, y = adversarial_batch(attacked, self.train, attack, rows, noise_std=std, seed=config.seed)
            self.run.progress.advance(rows.stop)
            yield to_bytes(x), y

    def finetuned(self) -> Path:
        """Stage II: the checkpoint of the network fine-tuned on the adversarial images, made unless it is there."""
        config, run, stage = self.config, self.run, f"r{self.config.kind}"
        product = run.path / "checkpoints" / f"{stage}.safetensors"
        if not run.has(f"checkpoints/{product.name}"):
            trainer = self.trainer(self.adversarial())
            run.train(trainer, stage=stage, steps=config.finetune.steps, seed=config.seed, log_every=10)
            run.first(lambda: rp_models.save(trainer.model, product, notes={"finetuned": asdict(config)}))
        run.first(lambda: state_path(run.folder, stage).unlink(missing_ok=True))
        return product

    def trainer(self, adversarial: Images) -> Finetuner:
        """The trainer of stage II on the adversarial images."""
        config, run, model = self.config, self.run, self.load_original()
        return Finetuner(
            config.finetune,
            self.purifiers(model).trained,
            self.classifier,
            self.train,
            adversarial,
            compute=fitted.finetuning(config, run, f"r{config.kind}", model, self.classifier),
            processes=run.processes,
            seed=config.seed,
        )

    def report(self, product: Path) -> None:
        """What fine-tuning changed, on the test images: `result.json`, a sheet, and a table on the terminal."""
        tuned = rp_models.load(product, device=self.run.device)
        assert isinstance(tuned, Masked)
        models = {"before": self.load_original(), "after": tuned}
        x = self.test.batch(slice(None))[0]
        attacked = self.attack_test(self.classifier, "attack on the classifier")
        undefended = {"clean": self._accuracy(self.classifier, x), "pgd": self._accuracy(self.classifier, attacked)}
        rows = {}
        for name, model in models.items():
            judge = partial(self._judged, name, self.purifiers(model), attacked)
            rows[name] = self.run.once(f"results/{name}.json", judge, stage=f"judge {name}")
        self.run.finish({"setting": self._setting(), "undefended": undefended, **rows, "caution": CAUTION})
        purified = {
            f"purified {name}": self._purified(self.purifiers(model).descent, attacked[:COLUMNS])
            for name, model in models.items()
        }
        sheet = {"clean": x[:COLUMNS], "attacked": attacked[:COLUMNS], **purified}
        plot = plot_image_grid(sheet, title="attack on the classifier alone")
        plot.save(self.run.path / "figures" / "purified", formats=("png",))
        self._print(undefended, rows)

    def attack_test(self, model: nn.Module, title: str) -> Tensor:
        """The test images attacked by PGD through a model, purified or not."""
        settings, parts = self.config.attack, []
        pgd = PGD(eps=settings.eps, step_size=settings.step_size, steps=settings.judging_steps, eot=settings.eot)
        seed = noise.derive_seed(self.config.seed, "judging attack")
        self.run.progress.start(title, len(self.test))
        for rows in self._batches():
            x, y = self.test.batch(rows)
            parts.append(pgd(model, x, y, seed=seed, index=self.index[rows]))
            self.run.progress.advance(int(rows[-1]) + 1)
        self.run.progress.finish()
        return torch.cat(parts)

    def _judged(self, name: str, purifiers: Purifiers, attacked: Tensor) -> dict[str, Any]:
        """Accuracies, losses and AMV of the purifiers around one network; `attacked` through the classifier alone."""
        x, y = self.test.batch(slice(None))
        system = Defended(purifiers.descent, self.classifier)
        adaptive = self.attack_test(system, f"attack on the system {name}")
        seen = {
            "attacked": variation(purifiers.view, x, attacked, index=self.index),
            "purified": variation(purifiers.view, x, self._purified(purifiers.descent, attacked), index=self.index),
        }
        once = self._purified(purifiers.one_shot, attacked)
        with torch.no_grad():
            class_loss = F.cross_entropy(self.classifier(once), y)
        return {
            "clean": self._accuracy(system, x),
            "pgd_on_classifier": self._accuracy(system, attacked),
            "pgd_on_system": self._accuracy(system, adaptive),
            "one_shot_pgd_on_classifier": self._accuracy(self.classifier, once),
            "one_shot_class_loss": float(class_loss),
            "loss": {"clean": float(seen["attacked"].clean_loss.mean())}
            | {key: float(value.loss.mean()) for key, value in seen.items()},
            "amv": {key: float(value.layers[:, -1].mean()) for key, value in seen.items()},
            "amv_of_each_layer": {key: value.layers.mean(dim=0).tolist() for key, value in seen.items()},
        }

    @torch.no_grad()
    def _purified(self, purifier: Purifier, x: Tensor) -> Tensor:
        """Purified images, with the noise that judges everywhere."""
        seed = noise.derive_seed(self.config.seed, "judging")
        return torch.cat([purifier(x[rows], seed=seed, index=self.index[rows]) for rows in self._batches(len(x))])

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, x: Tensor) -> Accuracy:
        """Share of the test images that are classified correctly, with its 95% interval."""
        if isinstance(model, Defended):
            x = self._purified(model.purifier, x)
            model = model.classifier
        return classified(model, ((x[rows], self.test.labels[rows]) for rows in self._batches()))

    def _batches(self, count: int | None = None) -> tuple[Tensor, ...]:
        """Positions of the test images (or the first `count`), batch by batch."""
        return torch.arange(count or len(self.test), device=self.run.device).split(self.config.batch_size)

    def _setting(self) -> dict[str, Any]:
        attack = self.config.attack
        return {
            "data": self.config.data,
            "split": "test",
            "images": len(self.test),
            "attack": f"PGD-{attack.judging_steps}, {attack.eot} passes a gradient, sign steps as the identity",
            "norm": "linf",
            "eps": attack.eps,
            "seed": self.config.seed,
        }

    def _print(self, undefended: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
        setting, name = self._setting(), {"mae": "MAE-Pure", "maskdit": "MaskDiT-Pure"}[self.config.kind]
        lines: list[tables.Row] = [
            {"": "no purifier", "clean": undefended["clean"], "PGD on classifier": undefended["pgd"]}
        ]
        for title, row in zip((name, f"R{name}"), rows.values(), strict=True):
            lines.append(
                {
                    "": title,
                    "clean": row["clean"],
                    "PGD on classifier": row["pgd_on_classifier"],
                    "PGD on system": row["pgd_on_system"],
                    "one-shot, PGD on classifier": row["one_shot_pgd_on_classifier"],
                    "class loss": row["one_shot_class_loss"],
                    "AMV attacked": row["amv"]["attacked"],
                    "AMV purified": row["amv"]["purified"],
                }
            )
        where = f"{setting['data']}, {setting['images']} test images, Linf {setting['eps']:.4g}, {setting['attack']}"
        checkpoint = self.run.path / "checkpoints" / f"r{self.config.kind}.safetensors"
        print(f"{where}\n\n{tables.text(lines)}\n\n{CAUTION}\ncheckpoint: {checkpoint}")
