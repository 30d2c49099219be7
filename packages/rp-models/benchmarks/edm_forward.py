"""How long EDM's CIFAR-10 network takes, and how much of it the partial forward saves.

    python benchmarks/edm_forward.py [--smoke]

Prints processor time on one core at batch 2: the best of several alternating runs, so that a busy machine disturbs all
alike.
"""

import argparse
import time
from collections.abc import Callable

import torch
from rp_models import zoo


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny network and one run, to see that it starts")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    model = zoo.build("edm-digits" if smoke else "edm-cifar10-cond-vp").eval()
    x = torch.randn(2, model.img_channels, model.img_resolution, model.img_resolution)
    sigma, labels = torch.tensor([0.5, 2.0]), torch.tensor([0, 1])

    def backward() -> None:
        model.zero_grad()
        model(x, sigma, labels).square().sum().backward()

    jobs: dict[str, Callable[[], object]] = {
        "forward": torch.no_grad()(lambda: model(x, sigma, labels)),
        "forward and backward": backward,
        **{
            f"forward to {at}": torch.no_grad()(lambda at=at: model.features(x, sigma, labels, at=at))
            for at in ("enc_last", "bottleneck", "before_up")
        },
    }
    best = measure(jobs, repeats=1 if smoke else 8)
    for name, seconds in best.items():
        print(f"{name:24s} {1000 * seconds:8.1f} ms   {seconds / best['forward']:.2f} of a forward")


def measure(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least processor time of each job, in seconds, after one warm-up, taking turns."""
    best = dict.fromkeys(jobs, float("inf"))
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            if turn:
                best[name] = min(best[name], time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
