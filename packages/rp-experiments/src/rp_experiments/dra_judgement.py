"""How `train_dra.py` judges a classifier: its accuracy under AutoAttack, and the geometry of its features."""

from collections.abc import Callable, Mapping

import torch
from rp_analysis import alignment_score, cknna, uniformity_score
from rp_attacks import PGD, AutoAttack, Progress, evaluate
from rp_attacks.problem import Attack
from rp_attacks.report import Report
from rp_dra.targets import FrozenTarget
from rp_models import noise
from rp_models.data import Images
from rp_models.loading import pooled_features
from torch import Tensor, nn

from rp_experiments.recipes.dra import EvaluationSettings
from rp_experiments.run import Run


def autoattack(settings: EvaluationSettings) -> dict[str, Attack]:
    """AutoAttack's standard version: its four attacks, each on the images that still stand."""
    return {
        part: AutoAttack(norm=settings.norm, eps=settings.eps, attacks=(part,), batch_size=settings.batch_size)
        for part in settings.attacks
    }


def attacked(
    model: nn.Module,
    images: Images,
    attacks: Mapping[str, Attack],
    settings: EvaluationSettings,
    *,
    seed: int,
    method: str,
    run: Run,
    watch: Callable[[Progress], None] | None,
) -> Report | None:
    """The report of a method's classifier, whose images all processes share; None in all but the first."""
    x, y = images.batch(slice(None))

    def part(shard: tuple[int, int]) -> Report:
        return evaluate(
            model,
            x,
            y,
            attacks,
            seed=seed,
            batch_size=settings.batch_size,
            block_size=settings.batch_size,
            probes=settings.probes,
            folder=run.path / "evaluation" / method,
            shard=shard,
            progress=watch,
        )

    if run.processes.count > 1:
        part((run.processes.rank, run.processes.count))
    run.processes.wait()
    return part((0, 1)) if run.main else None


def right_images(report: Report) -> dict[str, Tensor]:
    """Which images of the data set were judged, and on which the classifier is right in most passes."""
    records = {"clean": report.clean, "autoattack": report.worst}
    right = {name: torch.from_numpy(record.right.mean(axis=1) > 0.5) for name, record in records.items()}
    return {"index": torch.from_numpy(report.index), **right}


def describe_features(
    model: nn.Module, images: Images, target: FrozenTarget | None, settings: EvaluationSettings, *, seed: int
) -> dict[str, float | None]:
    """The features' geometry on clean and adversarial images, and their similarity with a diffusion model's, if any."""
    attack = PGD(norm=settings.norm, eps=settings.eps, step_size=settings.eps / 4, steps=20)
    found: list[tuple[Tensor, ...]] = []
    for index in torch.arange(len(images), device=images.device).split(settings.batch_size):
        x, y = images.batch(index)
        both = pooled_features(model, x), pooled_features(model, attack(model, x, y, seed=seed, index=index))
        if target is None:
            found.append(both)
            continue
        eps = noise.normal(target.noise_shape(x.shape[1:]), seed=seed, purpose="similarity", index=index)
        # without labels: a condition on the true class would make any good classifier look similar
        found.append((*both, target(x, None, noise=eps)))
    clean, adversarial, *diffusion = (torch.cat(column) for column in zip(*found, strict=True))
    compared = [clean, *diffusion]
    # constant features, of a collapsed classifier, have no similarity with anything
    comparable = len(compared) == 2 and not any(bool((part == part[0]).all()) for part in compared)
    k = min(settings.neighbours, len(clean) - 1)
    return {
        "cknna": cknna(clean, diffusion[0], k=k) if comparable else None,
        "alignment": alignment_score(clean, adversarial),
        "uniformity": uniformity_score(clean),
    }
