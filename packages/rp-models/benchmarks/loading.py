"""Images a second of reading and augmenting, against what a step of adversarial training asks for, in one process.

    python packages/rp-models/benchmarks/loading.py [--batch 64] [--seconds 3] [--threads 1] [--write] [--smoke]

The step is one of TRADES with ten attack steps on WRN-16-2 (Zhang et al. 2019, arXiv:1901.08573): one forward pass, ten
forward and backward passes for the attack, two forward passes and a backward pass for the update. All data are random
bytes. `--write` leaves the table in `benchmarks/results/`.
"""

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rp_models import build
from rp_models.data import BatchPlan, FolderImages, ImageSet, JoinedImages, describe, read_synthetic, write_synthetic
from rp_models.data.augment import augmented_batch
from rp_models.data.augmentation import AUGMENTATIONS
from rp_models.data.decode import View
from rp_models.data.synthetic import part_path
from torch.nn import functional as F

Load = Callable[[int], object]


def training_step(batch: int, smoke: bool) -> Load:
    """A step of TRADES-10 on WRN-16-2 (smoke: WRN-10-1)."""
    depth, width = (10, 1) if smoke else (16, 2)
    model = build("dm-wide-resnet", depth=depth, width=width).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x, y = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10

    def step(_: int) -> None:
        target = model(x).detach().softmax(dim=1)
        adversarial = x
        for _attack in range(10):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.kl_div(model(adversarial).log_softmax(dim=1), target, reduction="batchmean")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = (adversarial + 2 / 255 * gradient.sign()).clamp(0, 1)
        natural, robust = model(x), model(adversarial.detach())
        divergence = F.kl_div(robust.log_softmax(dim=1), natural.softmax(dim=1), reduction="batchmean")
        optimizer.zero_grad()
        (F.cross_entropy(natural, y) + 5 * divergence).backward()
        optimizer.step()

    return step


def random_bytes(count: int) -> ImageSet:
    """CIFAR-like images."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return ImageSet(torch.from_numpy(pixels), torch.arange(count) % 10, describe("cifar10"))


def in_memory(batch: int, count: int) -> Iterator[tuple[str, Load]]:
    """Images that lie on the device, plain and with the augmentations of two data sets."""
    images = random_bytes(count)
    plan = BatchPlan(real=count, batch_size=batch, epoch_images=count)

    def load(step: int, name: str | None) -> object:
        index = plan.indices(0, step % plan.batches_per_epoch)
        draw = torch.arange(step * batch, step * batch + batch)
        if name is None:
            return images.batch(index)
        return augmented_batch(images, index, AUGMENTATIONS[name], seed=0, purpose="training", draw=draw)

    yield "32x32 in memory", lambda step: load(step, None)
    yield "32x32 in memory, crop and flip (CIFAR-10)", lambda step: load(step, "cifar10")
    yield "32x32 in memory, crop, flip, rotation (CIFAR-100)", lambda step: load(step, "cifar100")


def mapped(batch: int, count: int, folder: Path) -> Iterator[tuple[str, Load]]:
    """DM-AT's mixture: 30 % real images in memory, 70 % synthetic ones in four mapped files."""
    real, made = random_bytes(count), random_bytes(4 * count)
    for number, rows in enumerate(torch.arange(4 * count).split(count)):
        write_synthetic(made.images[rows], made.labels[rows], part_path(folder / "made.npz", number, 4))
    images = JoinedImages(real, read_synthetic(folder, real.info))
    plan = BatchPlan(
        real=count, synthetic=4 * count, batch_size=batch, synthetic_fraction=0.7, epoch_images=count, seed=0
    )

    def load(step: int) -> object:
        index = plan.indices(*divmod(step, plan.batches_per_epoch))
        draw = torch.arange(step * batch, step * batch + batch)
        return augmented_batch(images, index, AUGMENTATIONS["cifar10"], seed=0, purpose="training", draw=draw)

    yield "32x32, DM-AT's mixture from mapped files, crop and flip", load


def in_files(batch: int, count: int, folder: Path) -> Iterator[tuple[str, Load]]:
    """JPEG files of ImageNet's usual size, decoded for evaluation and for training."""
    from PIL import Image

    names = [f"{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        small = np.random.default_rng(number).integers(0, 256, (48, 63, 3), dtype=np.uint8)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(folder / name, quality=90)
    view = View(size=224, crop="resize", resize=256)
    images = FolderImages(folder, names, torch.arange(count) % 1000, describe("imagenet"), view=view)

    def chosen(step: int) -> torch.Tensor:
        return torch.arange(step * batch, step * batch + batch) % count

    yield "500x375 JPEG files to 224x224", lambda step: images.batch(chosen(step))
    yield (
        "500x375 JPEG files to random crops of 224x224, flip (ImageNet)",
        lambda step: augmented_batch(
            images, chosen(step), AUGMENTATIONS["imagenet"], seed=0, purpose="training", draw=chosen(step)
        ),
    )


def rate(load: Load, batch: int, seconds: float) -> float:
    """Images a second of processor time: the median over single batches, the first of which warms up."""
    load(0)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 2:
        start = time.process_time()
        load(1 + len(times))
        times.append(time.process_time() - start)
    return batch / float(np.median(times))


def table(options: argparse.Namespace) -> str:
    """The results as a markdown table."""
    batch, count = options.batch, 256 if options.smoke else 20_000
    demand = rate(training_step(batch, options.smoke), batch, options.seconds)
    rows = [f"| TRADES-10 step of WRN-16-2, batch {batch}: the demand | {demand:,.1f} | 1 |"]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        cases = (in_memory(batch, count), mapped(batch, count, Path(one)), in_files(batch, 2 * batch, Path(other)))
        for name, load in (pair for case in cases for pair in case):
            speed = rate(load, batch, options.seconds)
            rows.append(f"| {name} | {speed:,.0f} | {speed / demand:,.0f} |")
    return "\n".join(["| what | images/s of processor time | ratio to the demand |", "|---|---|---|", *rows])


def main() -> None:
    """Measure, print, and write the results down if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="leave the table in benchmarks/results/")
    parser.add_argument("--smoke", action="store_true", help="a tiny network and few images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    day = datetime.datetime.now(tz=datetime.UTC).date()
    text = (
        f"# Loading and augmentation on a CPU, {day}\n\n"
        f"{platform.machine()}, {os.cpu_count()} cores shared with other work, torch {torch.__version__} with "
        f"{options.threads} thread(s);\n`benchmarks/loading.py --batch {options.batch} --threads {options.threads}`. "
        "All rows in one process, processor time, median over batches.\n"
        "One over the ratio is the share of time that loading adds to such a step when it is not in the background.\n"
        "The step is on 32x32 images; one on 224x224 images, which the last two rows would feed, is about fifty times\n"
        "slower.\n\n"
        f"{table(options)}\n"
    )
    print(text)
    if options.write:
        path = Path(__file__).parent / "results" / f"loading_cpu_{day}.md"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
