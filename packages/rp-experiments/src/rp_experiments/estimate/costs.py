"""The page of what the papers' runs take: `python -m rp_experiments.estimate.costs docs/costs.md` rewrites it."""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rp_models.files import complete_file
from rp_models.training import RunFolder

from rp_experiments import tables
from rp_experiments.estimate.apps import estimate
from rp_experiments.estimate.cards import CARDS, SHARES
from rp_experiments.launch import cores
from rp_experiments.recipes.dra import RECIPES, TrainDra
from rp_experiments.recipes.pretrain_settings import EDM_RECIPES, MAE_RECIPES, MASKDIT_RECIPES
from rp_experiments.run import Run

CARD = "H100"
_DRA = (
    "imagenet-convnext-b", "imagenet-vit-b16", "cifar10-wrn-28-10-1m", "cifar10-wrn-28-10-1m-1024",
    "cifar10-wrn-28-10-20m", "cifar10-wrn-70-16-50m",
    "cifar10-vit-b2-20m", "cifar10-vit-b2-50m", "cifar100-wrn-28-10-1m", "cifar100-vit-b2-1m",
)  # fmt: skip


def _aligned(name: str) -> TrainDra:
    """A recipe with its dearest method."""
    return replace(RECIPES[name](), method=("dm-at+dra",))


RUNS: dict[str, tuple[str, Callable[[], Any]]] = {
    **{
        f"train_dra.py --recipe {name} --method dm-at+dra": ("train_dra:train_dra", partial(_aligned, name))
        for name in _DRA
    },
    "pretrain.py edm --recipe cifar10": ("pretrain:pretrain", EDM_RECIPES["cifar10"]),
    "pretrain.py mae --recipe cifar10": ("pretrain:pretrain", MAE_RECIPES["cifar10"]),
    "pretrain.py maskdit --recipe cifar10": ("pretrain:pretrain", MASKDIT_RECIPES["cifar10"]),
}
_HEAD = f"""# What the papers' runs take

Written by `python -m rp_experiments.estimate.costs docs/costs.md`; any run's own: `--estimate`.

Counted, not measured: operations (two for each multiplication with addition; matrix products, convolutions and
attention) and the most memory at one time, on tensors without values at full size, with the run's own code. One
{CARD}; several share the operations. The micro-batch is the largest divisor of the batch with which a training step
stays below {CARDS[CARD].usable / 2**30:.0f} GiB of {CARDS[CARD].memory} GB; "GiB whole" is what the whole batch at
once would need. Mixed precision is counted by a CPU's rules, whose list of operations in float32 is shorter than a
GPU's. Attacks are counted at full length on every image; images that fall leave earlier.
The attacks on purifiers, which cost most, are not on this page: `compare_purifiers.py --estimate` counts them.

Assumed, not measured: hours are those of {", ".join(f"{share:.0%} of the {name}" for name, share in SHARES.items())}
peak rate of the maker's data sheet. Nothing here was measured on a GPU; `gpu_check.py` measures the share.
"""


def rows(name: str) -> list[tables.Row]:
    """The table's rows of one run; nothing is written."""
    run = Run(folder=RunFolder("costs", writes=False))
    job, make = RUNS[name]
    found = estimate(job, make(), run, card=CARDS[CARD], cards=1).rows()
    print(name, file=sys.stderr, flush=True)
    return [{"run": f"`{name}`", **{key: value for key, value in row.items() if key != "disk GB"}} for row in found]


def page() -> str:
    """The whole page, by as many processes as there are cores."""
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        found = [row for several in pool.map(rows, RUNS) for row in several]
    return f"{_HEAD}\n{tables.markdown(found)}\n"


if __name__ == "__main__":
    (target,) = map(Path, sys.argv[1:])
    with complete_file(target) as temporary:
        temporary.write_text(page(), encoding="utf-8")
