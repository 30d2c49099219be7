"""Stage I of `finetune_purifier.py`: the images of the package's function, block by block, interrupted or not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import rp_models
import torch
from rp_attacks import PGD
from rp_models import noise
from rp_models.data import FolderImages, load_images, read_synthetic, subset
from rp_models.data.datasets import to_bytes
from rp_models.training import RunFolder, seeded
from rp_purify import Defended, MAEReconstruction, adversarial_images

from .tiny_networks import tiny_classifier

PIXELS = PGD(eps=0.1, step_size=0.05, steps=1)
OPTIONS = {"noise_std": 0.1, "seed": 3, "batch_size": 2}


@pytest.fixture
def apps(monkeypatch):
    """The modules of the apps."""
    import rp_experiments.adversarial_set as stage
    import rp_experiments.finetune_purifier as finetune
    import rp_experiments.recipes.finetuning as recipes

    return SimpleNamespace(stage=stage, finetune=finetune, recipes=recipes)


def made(apps, folder, defended, images, **options):
    """Stage I's images, from their files."""
    files = apps.stage.block_files(folder, len(images), batch_size=OPTIONS["batch_size"])
    apps.stage.write_blocks(files, defended, images, PIXELS, **OPTIONS, **options)
    return read_synthetic(files, images.info)


@pytest.fixture(scope="module")
def classifier():
    with seeded(0, "tiny classifier"):
        return tiny_classifier().eval()


@pytest.fixture(scope="module")
def defended(classifier) -> Defended:
    return Defended(MAEReconstruction(rp_models.load("mae-digits")), classifier)


@pytest.fixture(scope="module")
def digits():
    return subset(load_images("digits", "train"), 37)


def test_blocks_hold_the_bytes_that_one_array_held(apps, defended, digits, tmp_path) -> None:
    calls = 0

    def attack(model, x, y):
        nonlocal calls
        calls += 1  # each batch has random numbers of its own
        return PIXELS(model, x, y, seed=noise.derive_seed(noise.derive_seed(3, "stage I"), calls))

    expected = to_bytes(adversarial_images(defended, digits, attack, **OPTIONS))
    done = []
    blocks = made(apps, tmp_path, defended, digits, done=done.append)
    assert torch.equal(blocks.images, expected)
    assert torch.equal(blocks.labels, digits.labels)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"images-0000{n}-of-00003.npz" for n in range(3)]
    assert done[:2] == [2, 4]
    assert done[-1] == 37


def test_what_was_finished_before_a_kill_is_kept(apps, defended, digits, tmp_path) -> None:
    whole = made(apps, tmp_path / "whole", defended, digits).images

    def killed(count: int) -> None:
        if count > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(apps, tmp_path / "part", defended, digits, done=killed)
    (block,) = (tmp_path / "part").iterdir()
    written = block.stat().st_mtime_ns
    again = made(apps, tmp_path / "part", defended, digits)
    assert torch.equal(again.images, whole)
    assert block.stat().st_mtime_ns == written


def test_images_in_files_are_fine_tuned_on_without_loading_them(apps, classifier, tmp_path, monkeypatch) -> None:
    """As ImageNet's training split must be, which fits into no memory."""
    from PIL import Image

    images = load_images("digits", "train")
    for number in range(120):
        folder = tmp_path / "pictures" / str(int(images.labels[number]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[number, 0].numpy()).save(folder / f"{number}.png")
    rp_models.save(classifier, tmp_path / "classifier.safetensors")
    monkeypatch.setattr(FolderImages, "load", lambda _: pytest.fail("the whole split was loaded"))
    config = replace(
        apps.recipes.smoke(),
        data=str(tmp_path / "pictures"),
        classifier=str(tmp_path / "classifier.safetensors"),
        images=4,
        batch_size=8,
    )
    job = apps.finetune.FinetuneJob(config, RunFolder(tmp_path / "run"), torch.device("cpu"))
    assert isinstance(job.train, FolderImages)
    before = job.load_original().state_dict()
    after = job.finetuned().state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert len(list((tmp_path / "run" / "adversarial").iterdir())) == 2  # 96 images in batches of 8
