"""Stage I of `finetune_purifier.py`: the images of the package's function, block by block, interrupted or not."""

from dataclasses import replace

import pytest
import rp_models
import torch
from rp_attacks import PGD
from rp_experiments.finetune_purifier import FinetuneJob
from rp_experiments.recipes import finetuning
from rp_experiments.run import Run
from rp_models import noise
from rp_models.data import FolderImages, load_images, read_synthetic
from rp_models.data.datasets import to_bytes
from rp_models.training import Progress, RunFolder, seeded
from rp_purify import Defended, MAEReconstruction, adversarial_images


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The checkpoint of a wide ResNet of random weights."""
    path = tmp_path_factory.mktemp("networks") / "classifier.safetensors"
    with seeded(0, "tiny classifier"):
        model = rp_models.build("dm-wide-resnet", depth=10, width=1, in_channels=1, mean=[0.3], std=[0.4])
    rp_models.save(model, path)
    return str(path)


def job(classifier, folder, *, progress=None, **changes):
    """A fine-tuning on 37 images in blocks of 16."""
    base = finetuning.RECIPES["smoke"]()
    attack = replace(base.attack, eps=0.1, step_size=0.05)
    options = {"classifier": classifier, "train_images": 37, "batch_size": 2, "images": 4, "seed": 3, "attack": attack}
    run = Run(folder=RunFolder(folder), progress=progress or Progress())
    return FinetuneJob(replace(base, **{**options, **changes}), run)


class Seen(Progress):
    """Remembers how far the work came; more than `limit` images are interrupted."""

    def __init__(self, limit=100):
        self.done, self.limit = [], limit

    def advance(self, done, values=None):
        if done > self.limit:
            raise KeyboardInterrupt
        self.done.append(done)


def test_blocks_hold_the_bytes_that_one_array_held(classifier, tmp_path) -> None:
    calls = 0

    def attack(model, x, y):
        nonlocal calls
        calls += 1  # each batch has random numbers of its own
        pgd = PGD(eps=0.1, step_size=0.05, steps=1)
        return pgd(model, x, y, seed=noise.derive_seed(noise.derive_seed(3, "stage I"), calls))

    work = job(classifier, tmp_path, progress=Seen())
    defended = Defended(MAEReconstruction(rp_models.load("mae-digits"), mask_rate=0.5), work.classifier)
    expected = adversarial_images(defended, work.train, attack, noise_std=0.1, seed=3, batch_size=2)
    blocks = work.adversarial()
    assert torch.equal(blocks.images, to_bytes(expected))
    assert torch.equal(blocks.labels, work.train.labels)
    names = sorted(file.name for file in (tmp_path / "adversarial").iterdir())
    assert names == [f"images-0000{n}-of-00003.npz" for n in range(3)]
    assert work.run.progress.done == [*range(2, 37, 2), 37]


def test_what_was_finished_before_a_kill_is_kept(classifier, tmp_path) -> None:
    whole = job(classifier, tmp_path / "whole").adversarial().images
    with pytest.raises(KeyboardInterrupt):
        job(classifier, tmp_path / "part", progress=Seen(16)).adversarial()
    (block,) = (tmp_path / "part" / "adversarial").iterdir()
    written = block.stat().st_mtime_ns
    again = job(classifier, tmp_path / "part").adversarial()
    assert torch.equal(again.images, whole)
    assert block.stat().st_mtime_ns == written


def test_images_in_files_are_fine_tuned_on_without_loading_them(classifier, tmp_path, monkeypatch) -> None:
    """As ImageNet's training split must be, which fits into no memory."""
    from PIL import Image

    images = load_images("digits", "train")
    for number in range(120):
        folder = tmp_path / "pictures" / str(int(images.labels[number]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[number, 0].numpy()).save(folder / f"{number}.png")
    monkeypatch.setattr(FolderImages, "load", lambda _: pytest.fail("the whole split was loaded"))
    data = {"data": str(tmp_path / "pictures"), "train_images": None}
    work = job(classifier, tmp_path / "run", **data, batch_size=8)
    work.run.claim({})
    assert isinstance(work.train, FolderImages)
    before = work.load_original().state_dict()
    after = rp_models.load(work.finetuned()).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert len(list((tmp_path / "run" / "adversarial").iterdir())) == 2  # 96 images in batches of 8
    assert read_synthetic(tmp_path / "run" / "adversarial", work.train.info).labels.tolist() == list(
        work.train.batch(slice(None))[1]
    )


def test_atops_images_are_fgsm_on_the_classifier_alone(classifier, tmp_path) -> None:
    """Its one step goes from the clean image, so all pixels move by the radius or stop at black or white."""
    base = finetuning.RECIPES["digits-atop"]()
    attack = replace(base.attack, eps=0.1, step_size=0.1)
    work = job(classifier, tmp_path, attack=attack, finetune=replace(base.finetune, steps=1, batch_size=8))
    images, (x, y) = work.adversarial().batch(slice(None))[0], work.train.batch(slice(None))
    leaf = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(work.classifier(leaf), y, reduction="sum")
    (g,) = torch.autograd.grad(loss, leaf)
    expected = to_bytes((x + 0.1 * g.sign()).clamp(0, 1))
    differ = to_bytes(images) != expected
    assert float(differ.float().mean()) < 0.001  # signs of gradients near zero, in batches of another size
    one_shot = work.purifiers(work.load_original()).one_shot
    assert (one_shot.std, one_shot.keep_visible) == (0.0, False)
    settings = {"one_shot_noise_std": 0.25, "one_shot_keep_visible": True}
    work.config = replace(work.config, **settings)
    one_shot = work.purifiers(work.load_original()).one_shot
    assert (one_shot.std, one_shot.keep_visible) == (0.25, True)
