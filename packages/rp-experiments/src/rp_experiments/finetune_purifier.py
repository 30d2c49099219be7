"""The work of `finetune_purifier.py`: adversarial images, fine-tuning on them, and the purifier before and after."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_analysis.plots import plot_image_grid
from rp_attacks import PGD
from rp_attacks.intervals import wilson_interval
from rp_models import noise
from rp_models.data import Images, describe, open_images, read_synthetic, subset
from rp_models.data.datasets import DataError, open_subset
from rp_models.loading import load_classifier, load_mae, load_maskdit
from rp_models.training import ProgressBar, RunFolder, state_path, train_stage
from rp_models.training.devices import choose_device
from rp_purify import Defended, Finetuner, SignDescent, variation
from torch import Tensor, nn
from torch.nn import functional as F

from rp_experiments.adversarial_set import block_files, write_blocks
from rp_experiments.purifiers import Masked, OneShot, Purifiers, purifiers_around
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.standard_networks import standard_classifier

CAUTION = (
    "PGD differentiates the sign steps as the identity, which says little about a purifier: these are no robust "
    "accuracies. evaluate.py runs the suite that is one."
)
COLUMNS = 10  # images on the sheet


class FinetuneJob:
    """One run of `finetune_purifier.py`.

    Args:
        config: everything that determines the numbers.
        folder: of the run.
        device: where to compute.
        classifier: its checkpoint; "" for the one that `config` names.
        root: folder of the data sets; None for the usual places.

    Raises:
        CheckpointError, DataError: if a network cannot be used.
    """

    def __init__(
        self,
        config: Finetuning,
        folder: RunFolder,
        device: torch.device,
        *,
        classifier: str = "",
        root: Path | None = None,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.info = describe(config.data)
        self.classifier = load_classifier(classifier or config.classifier, self.info).to(device)
        self._check_purifiers()  # complains now, not after stage I
        train: Images = open_images(config.data, "train", root=root)
        self.train = (subset(train, config.train_images) if config.train_images else train).to(device)
        self.test, self.index = open_subset(config.data, "test", config.images, device=device, root=root)
        self.progress = ProgressBar()

    @classmethod
    def open(
        cls, config: Finetuning, out: Path, *, resume: bool, device: str, cache: Path, root: Path | None = None
    ) -> "FinetuneJob":
        """Load networks and images, then claim the folder; without a classifier, take the standard one.

        Raises:
            RunError: if the folder cannot be used.
            CheckpointError, DataError: if a network or the device cannot be used.
        """
        where = choose_device(device)
        classifier = config.classifier or standard_classifier(config.data, cache=cache, device=where, root=root)
        job = cls(config, RunFolder(out), where, classifier=classifier, root=root)
        job.folder = RunFolder.open(out, asdict(config), resume=resume)
        return job

    def run(self) -> None:
        """Both stages, and the purifier before and after them."""
        original, tuned = self.load_original(), self.finetuned()
        x = self.test.batch(slice(None))[0]
        attacked = self.attack_test(self.classifier, "attack on the classifier")
        undefended = {"clean": self._accuracy(self.classifier, x), "pgd": self._accuracy(self.classifier, attacked)}
        rows = {name: self.judge(name, model, attacked) for name, model in (("before", original), ("after", tuned))}
        self.folder.write_json(
            "result.json",
            {
                "setting": self._setting(),
                "undefended": undefended,
                **rows,
                "caution": CAUTION,
                "seconds": self.folder.seconds(),
                "config": asdict(self.config),
                "environment": self.folder.read_json("environment.json"),
            },
        )
        self._sheet(x[:COLUMNS], attacked[:COLUMNS], {"before": original, "after": tuned})
        self._print(undefended, rows)

    def load_original(self) -> Masked:
        """The network as it was pre-trained."""
        config = self.config
        if config.kind == "mae":
            return load_mae(config.mae, self.info).to(self.device)
        return load_maskdit(config.maskdit, self.info).to(self.device)

    def purifiers(self, model: Masked) -> Purifiers:
        """The purifiers around one network."""
        return purifiers_around(model, self.config)

    def adversarial(self) -> Images:
        """Stage I: training images attacked through the original purifier, as the files hold them."""
        settings, size = self.config.attack, self.config.batch_size
        files = block_files(self.folder.path / "adversarial", len(self.train), batch_size=size)
        if not all(file.exists() for file in files):
            with self.folder.timed("stage I"):
                self.progress.start("stage I", len(self.train), 0)
                grad = "exact" if self.config.through == "one-shot" else "identity"
                write_blocks(
                    files,
                    Defended(self.purifiers(self.load_original()).trained, self.classifier),
                    self.train,
                    PGD(eps=settings.eps, step_size=settings.step_size, steps=settings.steps, grad=grad),
                    noise_std=self.config.finetune.noise_std,
                    seed=self.config.seed,
                    batch_size=size,
                    done=lambda count: self.progress.advance(count, {}),
                )
                self.progress.finish()
        return read_synthetic(files, self.train.info).to(self.device)

    def finetuned(self) -> Masked:
        """Stage II: the network fine-tuned on the adversarial images, trained now if it is not there."""
        stage = f"r{self.config.kind}"
        product = self.folder.path / "checkpoints" / f"{stage}.safetensors"
        model = self.load_original()
        if not product.exists():
            adversarial = self.adversarial()
            with self.folder.timed("stage II"):
                finetuner = Finetuner(
                    self.config.finetune,
                    self.purifiers(model).trained,
                    self.classifier,
                    self.train,
                    adversarial,
                    seed=self.config.seed,
                )
                train_stage(
                    finetuner,
                    stage=stage,
                    steps=self.config.finetune.steps,
                    folder=self.folder,
                    identity={"config": asdict(self.config)},
                    seed=self.config.seed,
                    progress=self.progress,
                    log_every=10,
                )
                rp_models.save(model, product, notes={"finetuned": asdict(self.config)})
        state_path(self.folder, stage).unlink(missing_ok=True)
        tuned = rp_models.load(product, device=self.device)
        assert isinstance(tuned, Masked)
        return tuned

    def judge(self, name: str, model: Masked, attacked: Tensor) -> dict[str, Any]:
        """Accuracies, losses and AMV of the purifiers around one network, on the test images.

        Args:
            name: "before" or "after" fine-tuning.
            model: the network.
            attacked: test images attacked through the classifier alone; the same before and after.
        """
        file = f"results/{name}.json"
        if not (self.folder.path / file).exists():
            with self.folder.timed(f"judge {name}"):
                self.folder.write_json(file, self._judged(name, self.purifiers(model), attacked))
        row: dict[str, Any] = self.folder.read_json(file)
        return row

    def attack_test(self, model: nn.Module, title: str) -> Tensor:
        """The test images attacked by PGD through a model, purified or not."""
        settings, parts = self.config.attack, []
        pgd = PGD(eps=settings.eps, step_size=settings.step_size, steps=settings.judging_steps, eot=settings.eot)
        seed = noise.derive_seed(self.config.seed, "judging attack")
        self.progress.start(title, len(self.test), 0)
        for rows in self._batches():
            x, y = self.test.batch(rows)
            parts.append(pgd(model, x, y, seed=seed, index=self.index[rows]))
            self.progress.advance(int(rows[-1]) + 1, {})
        self.progress.finish()
        return torch.cat(parts)

    def _check_purifiers(self) -> None:
        """Load the network and build its purifiers once, for their errors."""
        model = self.load_original()
        try:
            self.purifiers(model)
        except ValueError as error:  # a purifier's own check of its settings against the network
            raise DataError(f"purifier: {error}") from error

    def _judged(self, name: str, purifiers: Purifiers, attacked: Tensor) -> dict[str, Any]:
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
    def _purified(self, purifier: SignDescent | OneShot, x: Tensor) -> Tensor:
        """Purified images, with the noise that judges everywhere."""
        seed = noise.derive_seed(self.config.seed, "judging")
        return torch.cat([purifier(x[rows], seed=seed, index=self.index[rows]) for rows in self._batches(len(x))])

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, x: Tensor) -> dict[str, float]:
        """Share of the test images that are classified correctly, with its 95% interval."""
        if isinstance(model, Defended):
            model, x = model.classifier, self._purified(model.purifier, x)  # type: ignore[arg-type]
        correct = sum(int((model(x[rows]).argmax(dim=1) == self.test.labels[rows]).sum()) for rows in self._batches())
        return {"correct": correct, "images": len(x), **wilson_interval(correct, len(x))._asdict()}

    def _batches(self, count: int | None = None) -> tuple[Tensor, ...]:
        """Positions of the test images (or the first `count`), batch by batch."""
        return torch.arange(count or len(self.test), device=self.device).split(self.config.batch_size)

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

    def _sheet(self, x: Tensor, attacked: Tensor, models: Mapping[str, Masked]) -> None:
        purified = {
            f"purified {name}": self._purified(self.purifiers(model).descent, attacked)
            for name, model in models.items()
        }
        plot = plot_image_grid({"clean": x, "attacked": attacked, **purified}, title="attack on the classifier alone")
        plot.save(self.folder.path / "figures" / "purified", formats=("png",))

    def _print(self, undefended: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
        setting = self._setting()
        name = {"mae": "MAE-Pure", "maskdit": "MaskDiT-Pure"}[self.config.kind]
        print(f"{setting['data']}, {setting['images']} test images, Linf {setting['eps']:.4g}, {setting['attack']}\n")
        print(f"{'':16}{'clean':>8}{'PGD on':>12}{'PGD on':>9}{'one-shot, PGD':>15}{'class':>7}{'AMV':>10}{'AMV':>10}")
        print(f"{'':24}{'classifier':>12}{'system':>9}{'on classifier':>15}{'loss':>7}{'attacked':>10}{'purified':>10}")
        print(f"{'no purifier':16}{_percent(undefended['clean']):>8}{_percent(undefended['pgd']):>12}")
        for title, row in zip((name, f"R{name}"), rows.values(), strict=True):
            line = f"{title:16}{_percent(row['clean']):>8}{_percent(row['pgd_on_classifier']):>12}"
            line += f"{_percent(row['pgd_on_system']):>9}{_percent(row['one_shot_pgd_on_classifier']):>15}"
            line += f"{row['one_shot_class_loss']:>7.3f}"
            print(line + "".join(f"{row['amv'][key]:>10.4f}" for key in ("attacked", "purified")))
        print(f"\n{CAUTION}\ncheckpoint: {self.folder.path / 'checkpoints' / f'r{self.config.kind}.safetensors'}")


def _percent(accuracy: Mapping[str, float]) -> str:
    return f"{100 * accuracy['estimate']:.1f}%"
