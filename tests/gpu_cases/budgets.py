"""Ceilings for each case, in `budgets.json`: `python -m tests.gpu_cases.budgets [part of a name ...]` writes it anew.

Raise a number only with a reason: each wait stops the host until the GPU is done, each launch costs it 5 to 10 µs.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from rp_models import noise_kernels
from rp_testing.pretended_gpu import LOG, Log
from rp_testing.pretended_gpu_moves import gpu_part
from rp_testing.pretended_gpu_patches import pretended_gpu
from torch import Tensor

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


def main() -> None:
    """Measure."""
    from tests.gpu_cases import CASES

    torch.set_num_threads(1)
    budgets = json.loads(FILE.read_text()) if sys.argv[1:] else {}
    for name, make in CASES.items():
        if sys.argv[1:] and not any(part in name for part in sys.argv[1:]):
            continue
        with gpu() as log:
            step = make("cuda")
            step(0)
            log.clear()
            step(1)
            budgets[name] = {"waits": log.waits, "launches": log.launches}
        print(name, budgets[name], flush=True)
    FILE.write_text(json.dumps(budgets, indent=1) + "\n")


if __name__ == "__main__":
    main()
