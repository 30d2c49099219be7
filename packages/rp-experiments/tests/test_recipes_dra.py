"""The recipes of `train_dra.py`: each resolves, follows the paper, and runs, made small, on files in real layouts."""

import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rp_models
import torch
from rp_attacks import PGD
from rp_dra import METHODS, build_classifier
from rp_dra.rates import make_optimizer, rate
from rp_dra.settings import AlignmentSettings, ClassifierSettings
from rp_dra.targets.build import alignment_target
from rp_experiments.recipes.dra import RECIPES
from rp_experiments.recipes.published import DRA as PAPER
from rp_experiments.recipes.published import RIVALS, published
from rp_experiments.run import Run
from rp_experiments.train_dra import TrainDraJob, train_dra
from rp_models.checkpoint import CheckpointError, read_tensors
from rp_models.data import describe
from rp_models.data.datasets import DataError
from rp_models.robustbench.imagenet import picture_list
from rp_models.training import RunFolder, init_distributed

LARGE = [name for name in RECIPES if name.startswith(("cifar", "imagenet"))]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_to_plain_json(name):
    from dataclasses import asdict

    config = asdict(RECIPES[name]())
    assert json.loads(json.dumps(config))["data"] == config["data"]


def test_every_row_of_the_papers_tables_has_a_recipe_and_a_method():
    assert len(PAPER) == 24  # 16 rows of Table 2, and those of Table 1 that are not in it
    for row in PAPER:
        assert 0 < row.autoattack < row.clean < 100
        assert row.recipe in LARGE
        assert row.method in METHODS
        assert published(row.recipe, row.method) is row
    assert {row.recipe for row in PAPER} | {row.recipe for row in RIVALS} | {"cifar10-preact-18-at-awp"} == set(LARGE)
    for row in RIVALS:
        assert RECIPES[row.recipe]().method == (row.method,)


@pytest.mark.parametrize(
    ("name", "batch", "epochs", "parameters"),
    [  # Table 2's columns, and the known sizes of the networks
        ("cifar10-wrn-34-10", 128, 200, 46_160_474),
        ("cifar10-wrn-28-10-1m", 512, 400, 36_479_194),
        ("cifar10-wrn-28-10-1m-1024", 1024, 800, 36_479_194),
        ("cifar10-wrn-28-10-20m", 2048, 2400, 36_479_194),
        ("cifar10-wrn-70-16-50m", 1024, 2000, 266_796_506),
        ("cifar10-rawrn-70-16-50m", 1024, 2000, 267_240_802),
        ("cifar10-vit-b2-20m", 1024, 500, 85_271_818),
        ("cifar10-vit-b2-50m", 1024, 2000, 85_271_818),
        ("cifar100-wrn-28-10-1m", 512, 400, 36_536_884),
        ("cifar100-vit-b2-1m", 1024, 500, 85_341_028),
        ("imagenet-convnext-b", 1024, 100, 88_591_464),
        ("imagenet-vit-b16", 1024, 100, 86_410_216),
    ],
)
def test_the_recipes_follow_the_paper(name, batch, epochs, parameters):
    config = RECIPES[name]()
    training = config.training
    assert (training.batch_size, training.epochs) == (batch, epochs)
    with torch.device("meta"):
        model = build_classifier(config.classifier, describe(config.data), pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == parameters
    imagenet = name.startswith("imagenet")
    assert config.evaluation.eps == training.eps == (4 / 255 if imagenet else 8 / 255)
    judged = ("robustbench", 5_000) if imagenet else ("drawn", None)
    assert (config.evaluation.order, config.evaluation.images) == judged
    assert (training.attack_steps, training.beta) == ((3, 10.0) if imagenet else (10, 5.0))
    assert config.alignment.weight == 1.2
    if "rn-" in name:
        assert (training.optimizer, training.lr, training.weight_decay, training.tau) == ("sgd", 0.2, 5e-4, 0.995)
    elif not imagenet:
        assert (training.optimizer, training.lr, training.weight_decay) == ("lion", 1e-4, 0.5)


@pytest.mark.parametrize(
    ("name", "objective", "awp", "lr", "averaging", "parameters"),
    [  # Section 7 of the specification of the rivals' own codes: objective, strength of AWP, rate, average
        ("cifar10-wrn-34-10-trades-awp", "trades-original", (0.005, 9, "original"), 0.1, ("ema", 0.0), 46_160_474),
        ("cifar10-wrn-34-10-at-awp", "pgd-at", (0.01, 0, "original"), 0.1, ("ema", 0.0), 46_160_474),
        ("cifar10-preact-18-at-awp", "pgd-at", (0.01, 0, "original"), 0.1, ("ema", 0.0), 11_172_170),
        ("cifar10-wrn-34-10-adr", "adr", (0.0, 9, "original"), 0.1, ("ema-all", 0.995), 46_160_474),
        ("cifar10-wrn-34-10-adr-awp", "adr", (0.005, 0, "restored"), 0.1, ("ema-all", 0.995), 46_160_474),
        ("cifar10-wrn-34-10-ikl", "ikl", (0.005, 9, "original"), 0.2, ("epochs", 0.9), 46_160_474),
    ],
)
def test_the_rivals_follow_their_own_recipes(name, objective, awp, lr, averaging, parameters):
    config = RECIPES[name]()
    training = config.training
    assert (training.epochs, training.batch_size, training.weight_decay, training.momentum) == (200, 128, 5e-4, 0.9)
    assert (training.nesterov, training.undecayed, training.label_smoothing) == (False, "nothing", 0.0)
    assert training.objective == objective
    assert (training.awp.gamma, training.awp.start_epoch, training.awp.variant) == awp
    assert (training.averaging, training.tau) == averaging
    assert (training.eps, training.step_size, training.attack_steps) == (8 / 255, 2 / 255, 10)
    at = [rate(training, 100 * epoch, steps_per_epoch=100)[0] for epoch in (0, 99, 100, 150)]
    if objective == "ikl":
        assert at[0] == pytest.approx(lr * 0.5 * (1 + math.cos(math.pi / 201)))
        assert at[2] == pytest.approx(lr * 0.5 * (1 + math.cos(math.pi * 101 / 201)))
        assert (training.ikl.attack_steps, training.ikl.step_share, training.ikl.alpha, training.ikl.beta) == (
            5,
            0.5,
            4,
            20,
        )
    else:
        assert at == pytest.approx([lr, lr, lr / 10, lr / 100])
    with torch.device("meta"):
        model = build_classifier(config.classifier, describe(config.data), pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(len(group["params"]) for group in make_optimizer(training, model, None).param_groups[:1]) == len(
        list(model.parameters())
    )


def test_the_second_representation_is_on_above_a_million_synthetic_images():
    edm = small_edm()
    settings = AlignmentSettings()
    for count, second in ((1_000_000, False), (1_000_001, True)):
        assert alignment_target(settings, edm, torch.device("cpu"), synthetic=count).random_level is second
    assert not alignment_target(
        replace(settings, random_level="no"), edm, torch.device("cpu"), synthetic=2_000_000
    ).random_level


def small_edm(size=32, channels=3, classes=10):
    return rp_models.build(
        "edm",
        img_resolution=size,
        img_channels=channels,
        label_dim=classes,
        model_type="SongUNet",
        model_channels=8,
        channel_mult=[1, 1],
        num_blocks=1,
        attn_resolutions=[],
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tiny files in the layouts of the official ones: CIFAR's pickles, ImageNet's folders, DM-AT's synthetic sets."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for folder, names, key, classes in (
        ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], b"labels", 10),
        ("cifar-100-python", ["train", "test"], b"fine_labels", 100),
    ):
        (root / folder).mkdir()
        for name in names:
            count = 16 if name.startswith("test") else 1100
            rows = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
            content = {b"data": rows, key: [i % classes for i in range(count)]}
            (root / folder / name).write_bytes(pickle.dumps(content, protocol=2))
    for name, size, classes in (
        ("cifar10/1m", 32, 10),
        *((f"cifar10/20m_part{part}", 32, 10) for part in (1, 2)),
        *((f"cifar10/50m_part{part}", 32, 10) for part in (1, 2, 3, 4)),
        ("cifar100/1m", 32, 100),
        ("imagenet-256/images/imagenet-256-00000-of-00001", 256, 1000),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
        np.savez(root / f"{name}.npz", image=image, label=np.arange(8) % classes)
    for data, classes in (("cifar10", 10), ("cifar100", 100)):
        rp_models.save(small_edm(classes=classes), root / f"edm-{data}-32x32-cond-vp.safetensors")
    _imagenet(root / "imagenet")
    tiny = {"width": 32, "multipliers": [1, 1, 1, 1, 1], "blocks": 1, "attention": [False] * 5}
    torch.manual_seed(0)
    rp_models.save(rp_models.build("lightningdit", width=24, depth=15, heads=2), root / "lightningdit-xl-1.safetensors")
    rp_models.save(rp_models.build("autoencoder-kl", **tiny), root / "vavae-f16d32.safetensors")
    rp_models.save(rp_models.build("latent-normalization"), root / "vavae-latent-statistics.safetensors")
    return root


def _imagenet(root):
    """A thousand classes: a test picture each, four of RobustBench's, training pictures, most in the first eight."""
    from PIL import Image

    root.mkdir()
    generator = np.random.default_rng(1)
    pictures = [root / f"{number}.JPEG" for number in range(5)]
    for picture in pictures:
        Image.fromarray(generator.integers(0, 256, (240, 260, 3), dtype=np.uint8)).save(picture)
    for number in range(1000):
        synset = "n01440764" if number == 0 else f"n{2_000_000 + number:08d}"
        for split, count in (("train", 14 if number < 8 else 1), ("val", 1)):
            (root / split / synset).mkdir(parents=True)
            for image in range(count):
                os.link(pictures[(number + image) % 5], root / split / synset / f"{synset}_{image}.JPEG")
    synsets = sorted(folder.name for folder in (root / "val").iterdir())
    for number, label in picture_list()[:4]:
        os.link(pictures[0], root / "val" / synsets[label] / f"ILSVRC2012_val_{number:08d}.JPEG")
    for picture in pictures:
        picture.unlink()


def shrunk(config):
    """The recipe with everything that costs time made small; layouts, objectives, optimisers and targets stay."""
    network = config.classifier.network
    if network == "ra-wide-resnet":
        arguments = {"blocks": (1, 1, 1), "channels": (12, 16, 20), "stem_channels": 8}
        classifier = replace(config.classifier, arguments=arguments)
    elif "preact" in network:
        classifier = ClassifierSettings(network="wrn-34-10", depth=10, width=1)
    elif "wrn" in network:
        classifier = replace(config.classifier, depth=10, width=1)
    elif network == "vit-b2-32":
        classifier = replace(config.classifier, depth=1, width=16, arguments={"heads": 2})
    else:
        small = "test_convnext.r160_in1k" if "convnext" in network else "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"
        classifier = ClassifierSettings(network=network, arguments={"model": small})
    batch = 4 if config.data.startswith("cifar") else 2
    return replace(
        config,
        classifier=classifier,
        training=replace(
            config.training,
            epochs=1,
            epoch_images=2 * batch,
            batch_size=batch,
            attack_steps=1,
            warmup=0.5,
            validate_every=0,
        ),
        compute=replace(config.compute, compile=False),  # compiling takes minutes on a CPU
        alignment=replace(config.alignment, hidden=8, zero_channels=(3,)),
        evaluation=replace(config.evaluation, images=4, batch_size=4, probes=0, neighbours=2),
    )


@pytest.fixture
def surroundings(files, monkeypatch):
    """Weights are found by name and synthetic files by relative path, as in a user's folder; attacks are weak."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("RP_WEIGHTS", str(files))
    monkeypatch.setattr(
        TrainDraJob, "attacks", lambda job: {"pgd": PGD(eps=job.config.evaluation.eps, step_size=0.01, steps=1)}
    )
    monkeypatch.setattr("rp_experiments.dra_judgement.PGD", lambda **settings: PGD(**{**settings, "steps": 1}))
    monkeypatch.setattr(
        "rp_analysis.plots.style.Plot.save", lambda plot, stem: []
    )  # figures cost more than all the rest
    return files


# the other network of ImageNet's recipes takes the same way in a fifth of the time
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "imagenet-vit-b16" else name for name in LARGE]
)
def test_each_large_recipe_runs_at_a_cpus_size(name, surroundings, tmp_path, capsys):
    config = shrunk(RECIPES[name]())
    every = ("at", "at+dra", "at+ikl", "at+adr") if name == "cifar10-wrn-34-10" else config.method
    config = replace(config, method=every if name in ("cifar10-wrn-34-10", "cifar10-wrn-28-10-1m") else every[-1:])
    run = Run(folder=RunFolder(tmp_path / "run"), cache=tmp_path / "cache", root=surroundings)
    train_dra(config, run, recipe=name)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["methods"]) == set(config.method)
    shown = f"published for recipe {name}, {config.method[-1]}" in capsys.readouterr().out
    assert shown == (published(name, config.method[-1]) is not None)
    for method in config.method:
        state = read_tensors(tmp_path / "run" / "checkpoints" / f"{method}.safetensors")
        assert all(bool(value.isfinite().all()) for value in state.values())
        steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        losses = [step["loss"] for step in steps if step["stage"] == method]
        assert len(losses) == 2
        assert np.isfinite(losses).all()
        assert ("alignment" in steps[-1]) == steps[-1]["stage"].endswith("+dra")


def check(config, root):
    with init_distributed(torch.device("cpu")) as processes:
        run = Run(folder=RunFolder(Path("never")), cache=Path("never"), root=root, processes=processes)
        TrainDraJob(config, run).check()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: replace(c, diffusion_model="edm-cifar11"), CheckpointError, "edm-cifar11: no such checkpoint"),
        (
            lambda c: replace(c, diffusion_model="edm-cifar100-32x32-cond-vp"),
            DataError,
            "knows 100 classes, cifar10 has 10",
        ),
        (
            lambda c: replace(c, synthetic=replace(c.synthetic, paths=("imagenet-256/images/*.npz",))),
            DataError,
            r"expected uint8 images \(n, 32, 32, 3\) for cifar10, got uint8 \(8, 256, 256, 3\)",
        ),
        (
            lambda c: replace(c, synthetic=replace(c.synthetic, paths=("cifar100/1m.npz", "missing.npz"))),
            DataError,
            "missing.npz",
        ),
        (
            lambda c: replace(c, classifier=ClassifierSettings(network="vit-b2-32", activation="relu")),
            DataError,
            "--classifier: vit-b2-32: .*unexpected keyword",
        ),
        (
            lambda c: replace(c, classifier=replace(c.classifier, pretrained="gone.pt")),
            CheckpointError,
            "there is no file gone.pt",
        ),
        (
            lambda c: replace(
                c, alignment=AlignmentSettings(target="network", checkpoint="gone"), method=("dm-at+dra",)
            ),
            CheckpointError,
            "gone: no such checkpoint",
        ),
        (
            lambda c: replace(
                c,
                alignment=AlignmentSettings(
                    target="lightningdit",
                    checkpoint="vavae-f16d32",
                    autoencoder="vavae-f16d32",
                    latent_statistics="vavae-f16d32",
                ),
            ),
            CheckpointError,
            "vavae-f16d32: expected a LightningDiT",
        ),
    ],
)
def test_what_is_missing_or_does_not_fit_is_told_before_the_first_step(surroundings, change, error, message):
    config = shrunk(RECIPES["cifar10-wrn-28-10-1m"]())
    check(config, surroundings)
    with pytest.raises(error, match=message) as told:
        check(change(config), surroundings)
    assert "\n" not in str(told.value)
    assert not Path("never").exists()
