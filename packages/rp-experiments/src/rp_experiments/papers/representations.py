"""Features of a run's classifiers beside those of its diffusion model: Fig. 4, 9 and 10 of the DRA paper."""

from dataclasses import fields
from pathlib import Path

import rp_models
from rp_analysis import alignment_score, cknna, gradient_saliency, radial_profile, uniformity_score
from rp_analysis.frequency import difference_map
from rp_analysis.plots import plot_gradient_difference

from rp_experiments.analyze import AnalysisJob
from rp_experiments.papers.settings import Representations
from rp_experiments.recipes.analysis import Analysis
from rp_experiments.run import Run

DIFFUSION = "diffusion representation"


def represent(config: Representations, run: Run, trained: Path, noisy: Path) -> None:
    """A look at a run of `train_dra.py`, and at the one whose target was the noisy-input encoder: `result.json`."""
    own = {field.name: getattr(config, field.name) for field in fields(config)}
    job = AnalysisJob(Analysis(run=str(trained), **own), run.claim(config))
    job.features()
    probe, diffusion = job.probe, job.diffusion
    assert probe is not None, "the run has a diffusion model"
    assert diffusion is not None
    attacked = job.each(lambda rows, x, y: job.diffusion_features(rows, job.attacked(probe, rows, x, y)))
    pairs = {name: (job.clean[name], job.adversarial[name]) for name in job.models}
    pairs[DIFFUSION] = diffusion, attacked
    k = min(config.neighbours, len(job.test) - 1)
    references = {"diffusion": diffusion} | {name: job.clean[name] for name in ("standard",) if name in job.clean}
    setting = {key: job.result["setting"][key] for key in ("data", "split", "classifier", "norm", "eps")}
    result = {
        "setting": setting | {"images": len(job.test), "attack": f"PGD-{config.attack_steps} on the margin"},
        "geometry": {
            name: {"alignment": alignment_score(*both), "uniformity": uniformity_score(both[0])}
            for name, both in pairs.items()
        },
        "similarity": {
            name: {f"with {of}": cknna(features, reference, k=k) for of, reference in references.items()}
            for name, features in job.clean.items()
        },
        "gradients": _gradients(job, noisy),
    }
    run.folder.write_json("result.json", result)


def _gradients(job: AnalysisJob, noisy: Path) -> dict[str, list[float]]:
    """How the input gradients' spectra differ from DM-AT's, over the frequency, for both alignment targets."""
    if not {"dm-at", "dm-at+dra"} <= job.models.keys():
        return {}
    other = rp_models.load(noisy / "checkpoints" / "dm-at+dra.safetensors", device=job.run.device)
    aligned = {"noisy-input encoder": other, "diffusion model": job.models["dm-at+dra"]}
    base = gradient_saliency(job.models["dm-at"], job.labelled())
    maps = {
        f"aligned with the\n{name}": difference_map(base, gradient_saliency(model, job.labelled()), normalize=True)
        for name, model in aligned.items()
    }
    plot_gradient_difference(maps).save(job.run.path / "figures" / "gradients", formats=("png",))
    # the maps are of an orthonormal DCT, low frequencies first
    return {
        name: radial_profile(one, transform="dct").tolist() for name, one in zip(aligned, maps.values(), strict=True)
    }
