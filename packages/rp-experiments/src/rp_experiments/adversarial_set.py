"""Stage I of robust fine-tuning: the training set attacked block by block, into files that stage II reads from.

Neither the training images nor the attacked ones need fit into memory, and an interrupted stage goes on with the first
block that is not there.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rp_attacks import PGD
from rp_models import noise
from rp_models.data import Images, write_synthetic
from rp_models.data.datasets import to_bytes
from rp_models.data.synthetic import part_path
from rp_purify import Defended, adversarial_batch
from torch import Tensor

BLOCK = 8  # batches in a file: so many a kill loses at most


def block_files(folder: Path, images: int, *, batch_size: int) -> list[Path]:
    """The files of so many images, block by block; `read_synthetic` opens them when all are there."""
    count = -(-images // (BLOCK * batch_size))
    return [part_path(folder / "images.npz", number, count) for number in range(count)]


def write_blocks(
    files: Sequence[Path],
    defended: Defended,
    images: Images,
    pgd: PGD,
    *,
    noise_std: float,
    seed: int,
    batch_size: int,
    done: Callable[[int], None] = lambda images: None,
) -> None:
    """Every training image with Gaussian noise, attacked through purifier and classifier (Eq. 5 of MAE-Pure).

    The images are those of `rp_purify.adversarial_images`, to the byte, however often the work was interrupted.

    Args:
        files: of the blocks; those that are there are kept.
        defended: the whole system, whose purifier is the one that stage II trains through.
        images: training images, on the system's device.
        pgd: starts from the noisy images.
        noise_std: of the noise, in pixel units of [0, 1].
        seed: of noise and attack.
        batch_size: images at a time; part of what determines them.
        done: called with the number of images made so far.

    Raises:
        DataError: if a file cannot be written.
    """
    for block, file in enumerate(files):
        start = block * BLOCK * batch_size
        rows = range(start, min(start + BLOCK * batch_size, len(images)))
        if not file.exists():
            made: list[tuple[Tensor, Tensor]] = []
            for batch in _attacked(defended, images, pgd, rows, noise_std, seed, batch_size):
                made.append(batch)
                done(min(start + len(made) * batch_size, rows.stop))
            x, y = zip(*made, strict=True)
            write_synthetic(torch.cat(x), torch.cat(y), file)
        done(rows.stop)


def _attacked(
    defended: Defended, images: Images, pgd: PGD, rows: range, noise_std: float, seed: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The attacked images of one block, as bytes, and their labels, batch by batch."""
    attack_seed = noise.derive_seed(seed, "stage I")
    for start in range(rows.start, rows.stop, batch_size):
        number = start // batch_size + 1  # of the batch, which has random numbers of its own
        attack = partial(pgd, seed=noise.derive_seed(attack_seed, number))
        batch = slice(start, min(start + batch_size, rows.stop))
        x, y = adversarial_batch(defended, images, attack, batch, noise_std=noise_std, seed=seed)
        yield to_bytes(x), y
