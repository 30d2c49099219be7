"""Ceilings for each case, in `budgets.json`: `python -m tests.gpu_cases.budgets [part of a name ...]` writes it anew.

Raise a number only with a reason: each wait stops the host until the GPU is done, each launch costs it 5 to 10 µs, and
each collective makes all processes wait for the slowest one.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rp_models import noise_kernels
from rp_testing.pretended_gpu import LOG, Log
from rp_testing.pretended_gpu_moves import gpu_part
from rp_testing.pretended_gpu_patches import pretended_gpu
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

FILE = Path(__file__).with_name("budgets.json")


@contextmanager
def gpu() -> Iterator[Log]:
    """The pretended GPU, on which a draw of noise is one launch, as the compiled one is on a real GPU."""
    with pretended_gpu() as log, mock.patch.object(noise_kernels, "compiled_draw", _one_launch):
        yield log


def _one_launch(draw: noise_kernels.Draw, device: torch.device) -> Callable[[Tensor, Tensor, int], Tensor]:
    def kernel(index: Tensor, numbers: Tensor, count: int) -> Tensor:
        LOG.launched()
        return gpu_part(draw(index.inner, numbers.inner, count))  # type: ignore[attr-defined]

    return kernel


class _Exchanges(TorchDispatchMode):
    """Counts what a process says to the others."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace == "c10d"
        return func(*args, **(kwargs or {}))


def collectives(name: str) -> int:
    """How many collectives the second step of a training takes in two processes, on CPUs.

    They are counted in one process that is told that there is another: its group has one member. The batch norms of
    CPUs exchange four times in a pass, those of GPUs twice.
    """
    from tests.gpu_cases import CASES

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        step = CASES[name]("cpu")
        step(0)
        with _Exchanges() as exchanges:
            step(1)
        return exchanges.count
    finally:
        distributed.destroy_process_group()


def main() -> None:
    """Measure."""
    from tests.gpu_cases import CASES

    torch.set_num_threads(1)
    budgets = json.loads(FILE.read_text()) if sys.argv[1:] else {}
    for name, make in CASES.items():
        if sys.argv[1:] and not any(part in name for part in sys.argv[1:]):
            continue
        with gpu() as log:
            torch.manual_seed(0)
            step = make("cuda")
            step(0)
            log.clear()
            step(1)
            budgets[name] = {"waits": log.waits, "launches": log.launches}
        if name.startswith("train/"):
            budgets[name]["collectives"] = collectives(name)
        print(name, budgets[name], flush=True)
    FILE.write_text(json.dumps(budgets, indent=1) + "\n")


if __name__ == "__main__":
    main()
