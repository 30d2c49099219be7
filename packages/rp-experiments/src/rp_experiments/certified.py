"""`evaluate.py --suite certified`: the radius within which no image changes the vote, beside what an attack reaches."""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rp_analysis.plots import RobustnessCurve, plot_robustness_curves
from rp_attacks import PGD, accuracy_curve
from rp_attacks.certificate import Certificates, certify
from rp_attacks.intervals import Interval

from rp_experiments import tables
from rp_experiments.evaluate import EvaluationJob
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.run import Run

STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # radii of the curve, in standard deviations of the noise
ATTACKED = 32  # images of the empirical curve


def certify_images(config: Evaluation, run: Run) -> None:
    """Certify each image once, processes sharing them; leave `result.json` and the figure, and print the curve."""
    job = EvaluationJob.of(config, run)
    run.progress.start("certify", len(job.x))
    for number in run.share(range(len(job.x))):
        run.alone().once(f"certificates/{number:05d}.json", partial(_one, job, number), stage="certify")
        run.progress.advance(number + 1)
    run.progress.finish()
    run.first(lambda: _leave(job, run))


def _one(job: EvaluationJob, number: int) -> dict[str, Any]:
    """The certificate of one image."""
    config, row = job.config, slice(number, number + 1)
    found = certify(
        job.model,
        job.x[row],
        job.y[row],
        std=config.noise,
        seed=config.seed,
        index=job.index[row],
        batch_size=config.batch_size,
        **asdict(config.certificate),
    )
    return {name: getattr(found, name).tolist()[0] for name in ("predicted", "radius", "lower", "labels")}


def _leave(job: EvaluationJob, run: Run) -> None:
    """The curve of certified accuracy, the empirical one beside it, and what they are of."""
    config, certificate = job.config, job.config.certificate
    images = [run.folder.read_json(f"certificates/{number:05d}.json") for number in range(len(job.x))]
    found = Certificates(*(torch.tensor([image[name] for image in images]) for name in Certificates.__slots__))
    radii = [step * config.noise for step in STEPS]
    certified, attacked = found.curve(radii), _attacked(job, radii)
    curves = {"certified (vote)": (certified, len(images)), "PGD-L2 (one pass)": (attacked, min(ATTACKED, len(images)))}
    drawn = {name: _drawn(radii, curve, count) for name, (curve, count) in curves.items()}
    plot_robustness_curves(drawn).save(run.path / "figures" / "certified_accuracy")
    run.finish(
        {
            "data": config.data,
            "split": job.split,
            "model": config.model or config.model_name,
            "setting": {"norm": "l2", "noise_std": config.noise, **asdict(certificate), "images": len(images)},
            "abstained": found.abstained,
            "curve": [
                {"radius": radius, "certified": point._asdict(), "pgd": other._asdict()}
                for radius, point, other in zip(radii, certified, attacked, strict=True)
            ],
            "images": images,
        }
    )
    print(
        f"{len(images)} images of {config.data}, split {job.split}, {config.model_name}, purifier "
        f"{config.purifier.kind}, noise {config.noise:.3g}; certificates in L2 of the vote of {certificate.n} passes, "
        f"each wrong with probability {certificate.alpha:g} at most; {100 * found.abstained:.1f}% without a vote"
    )
    rows: list[tables.Row] = [
        {"L2 radius": round(radius, 4), "certified": str(point), "PGD, one pass": str(other)}
        for radius, point, other in zip(radii, certified, attacked, strict=True)
    ]
    print(tables.text(rows))


def _attacked(job: EvaluationJob, radii: list[float]) -> list[Interval]:
    """Accuracy of one pass under a short PGD in L2 on the first images; one pass is weaker than the vote."""
    eps = max(radii)
    attack = PGD(norm="l2", eps=eps, step_size=2.5 * eps / 20, steps=20, loss="cw", eot=4)
    points = accuracy_curve(
        job.model, job.x[:ATTACKED], job.y[:ATTACKED], attack, radii, seed=job.config.seed, index=job.index[:ATTACKED]
    )
    return [point.accuracy for point in points]


def _drawn(radii: list[float], curve: list[Interval], images: int) -> RobustnessCurve:
    estimate, low, high = (tuple(getattr(point, name) for point in curve) for name in Interval._fields)
    return RobustnessCurve(tuple(radii), estimate, low, high, images=images)
