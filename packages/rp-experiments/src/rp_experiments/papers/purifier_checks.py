"""Two small jobs on a comparison's purifiers: how long they take, and Theorem J.1 on real images."""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rp_attacks import PGD
from rp_models.loading import load_classifier, load_mae
from rp_models.training.devices import describe_device
from rp_purify import MAEPure, Purifier
from rp_purify.settings import MAEPureSettings
from rp_purify.theory import descent_bound
from torch import Tensor

from rp_experiments.compare_purifiers import ComparisonJob
from rp_experiments.papers.settings import DescentCheck, Timing


def timing(job: ComparisonJob, config: Timing) -> dict[str, Any]:
    """Seconds for purifying one batch, by row: the rows take turns, the median counts."""
    x, index = job.x[: config.images], job.index[: config.images]
    rows = [row for row in config.rows if row in job.config.chosen]
    purifiers = {row: job.defence(getattr(job.config.rows, row)).purifier for row in rows}
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for repeat in range(config.repeats + 1):  # the first round warms up
        for row, purifier in purifiers.items():
            took = _seconds(purifier, x, index, seed=repeat)
            if repeat:
                seconds[row].append(took)
    return {
        "setting": {"data": job.config.data, "split": "test", "images": len(x), "seed": job.config.seed},
        "device": describe_device(x.device),
        "rows": {
            row: {
                "seconds": statistics.median(taken),
                "fastest": min(taken),
                "slowest": max(taken),
                "steps": _steps(getattr(job.config.rows, row)),
            }
            for row, taken in seconds.items()
        },
    }


def descent(job: ComparisonJob, config: DescentCheck) -> dict[str, Any]:
    """Both sides of Theorem J.1, a mean over masks, for each image, step size and number of steps."""
    x, y, index = job.x[: config.images], job.y[: config.images], job.index[: config.images]
    classifier = load_classifier(job.networks.path("classifier"), job.info).to(x.device)
    eps = job.config.budget.eps
    pgd = PGD(eps=eps, step_size=2.5 * eps / config.attack_steps, steps=config.attack_steps)
    attacked = pgd(classifier, x, y, seed=job.config.seed, index=index)
    settings = job.config.rows.mae_pure
    assert isinstance(settings, MAEPureSettings)
    mae = load_mae(job.networks.path("mae"), job.info).to(x.device).eval().requires_grad_(False)
    purifier = MAEPure(mae, steps=1, step_size=settings.step_size, eta=None, mask_rate=settings.mask_rate)

    def loss(mask: int, image: int) -> Callable[[Tensor], Tensor]:
        one = index[image : image + 1]
        return lambda z: purifier.loss(z, seed=job.config.seed, index=one, step=mask).sum()

    plain: dict[str, Any] = {"signs": False, "eta": None}
    own: dict[str, Any] = {"signs": True, "eta": settings.eta}
    updates = [("gradient", rate, plain) for rate in config.rates]
    updates += [("signs, clipped", rate, own) for rate in config.sign_rates]
    rows = []
    for (update, rate, options), steps in itertools.product(updates, config.steps):
        sides = torch.zeros(len(x), 2, dtype=torch.float64)
        for image, mask in itertools.product(range(len(x)), range(1, config.masks + 1)):
            one = slice(image, image + 1)
            bound = descent_bound(loss(mask, image), attacked[one], x[one], rate=rate, steps=steps, **options)
            sides[image] += torch.tensor(bound, dtype=torch.float64) / config.masks
        gap, bound_ = sides.unbind(dim=1)
        rows.append(
            {
                "update": update,
                "step size": rate,
                "steps": steps,
                "holds, % of images": 100 * float((gap <= bound_).double().mean()),
                "left side, median": float(gap.median()),
                "right side, median": float(bound_.median()),
            }
        )
    setting = {"data": job.config.data, "split": "test", "images": len(x), "masks": config.masks, "eps": eps}
    return {"setting": {**setting, "seed": job.config.seed}, "rows": rows}


def _seconds(purifier: Purifier, x: Tensor, index: Tensor, *, seed: int) -> float:
    """How long purifying a batch takes."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    purifier(x, seed=seed, index=index)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start


def _steps(choice: Any) -> int:
    """How many passes of its network a purifier makes."""
    return int(choice.reverse_steps or choice.times) if choice.kind == "diffpure" else int(choice.steps)
