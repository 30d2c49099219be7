"""Overhead of PGD over the model's own passes, and what per-image stopping saves; both inside one run.

    python packages/rp-attacks/benchmarks/pgd_overhead.py [--smoke]

Prints medians over repetitions that alternate, so that a machine's load falls on both sides alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rp_attacks import PGD
from torch import Tensor, nn


class Block(nn.Module):
    """Pre-activation block of a wide residual network."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False) if inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same or half the size."""
        h = F.relu(self.norm1(x))
        skip = self.skip(h) if isinstance(self.skip, nn.Conv2d) else x
        return self.conv2(F.relu(self.norm2(self.conv1(h)))) + skip


def wide_resnet(depth: int, width: int) -> nn.Module:
    """WRN-depth-width with random weights, in eval mode."""
    sizes = [16, 16 * width, 32 * width, 64 * width]
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    for group in range(3):
        for block in range((depth - 4) // 6):
            inside = sizes[group] if block == 0 else sizes[group + 1]
            layers.append(Block(inside, sizes[group + 1], 2 if group and block == 0 else 1))
    head = [nn.BatchNorm2d(sizes[3]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[3], 10)]
    return nn.Sequential(*layers, *head).eval()


def bare_passes(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """What an attack cannot do without: a forward and a backward pass to the images for every step."""
    for _ in range(steps):
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)


def alternate(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, measured in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> str:
    """Median of the pairwise ratios, and their range."""
    ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it starts")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    depth, width, batch, steps, repeats = (10, 1, 4, 1, 1) if options.smoke else (16, 4, 64, 2, options.repeats)
    torch.set_num_threads(1)
    model = wide_resnet(depth, width)
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
    attack = PGD(steps=steps)
    seconds = alternate(
        {
            "pgd": lambda: attack(model, x, y, seed=0),
            "bare": lambda: bare_passes(model, x, y, steps),
            "own": lambda: attack(lambda z: z[:, 0, 0, :10], x, y, seed=0),
        },
        repeats,
    )
    print(f"WRN-{depth}-{width}, batch {batch}, {steps} steps, torch {torch.__version__}, 1 thread")
    print(f"PGD / bare forward and backward passes: {ratio(seconds, 'pgd', 'bare')}")
    print(f"PGD on a model that costs nothing / bare passes (the overhead itself): {ratio(seconds, 'own', 'bare')}")

    # half of the images carry a wrong label, and so fall at once; the radius is too small for the others to fall
    small, steps = wide_resnet(10, 1), 2 if options.smoke else 20
    with torch.no_grad():
        labels = small(x).argmax(dim=1)
    labels[::2] = (labels[::2] + 1) % 10
    full, stopping = (PGD(eps=1e-7, step_size=1e-8, steps=steps, select="best", early_stop=e) for e in (False, True))
    seconds = alternate(
        {
            "full": lambda: full(small, x, labels, seed=0),
            "stopping": lambda: stopping(small, x, labels, seed=0),
        },
        repeats,
    )
    print(f"full batch / per-image stopping, half of the images falling at once: {ratio(seconds, 'full', 'stopping')}")


if __name__ == "__main__":
    main()
