"""Features of a run's classifiers beside those of its diffusion model: Fig. 4, 9 and 10 of the DRA paper."""

from collections.abc import Mapping
from pathlib import Path

import rp_models
import torch
from rp_analysis import alignment_score, cknna, gradient_saliency, radial_profile, uniformity_score
from rp_analysis.frequency import difference_map
from rp_analysis.plots import plot_gradient_difference
from rp_attacks import PGD
from rp_dra import EdmTarget, fit_probe
from rp_models import noise
from rp_models.data import ImageSet, load_images, subset
from rp_models.loading import pooled_features
from rp_models.training import RunFolder
from torch import Tensor, nn

from rp_experiments.papers.settings import Representations
from rp_experiments.run import Run

DIFFUSION = "diffusion representation"


class RepresentationsJob:
    """One look at a run of `train_dra.py`, and at the one whose target was the noisy-input encoder."""

    def __init__(self, config: Representations, run: Run, trained: Path, noisy: Path) -> None:
        self.config, self.folder, self.trained, self.noisy = config, run.folder, trained, noisy
        self.device, root = run.device, run.root
        self.setting = RunFolder(trained).read_json("result.json")
        data = self.setting["config"]["data"]
        self.train: ImageSet = load_images(data, "train", root=root).to(run.device)
        test = load_images(data, "test", root=root).to(run.device)
        self.test = subset(test, config.images) if config.images else test
        self.x, self.y = self.test.batch(slice(None))
        self.eps = float(self.setting["config"]["evaluation"]["eps"])

    def run(self) -> None:
        """All three comparisons, then `result.json` and the figure."""
        models = {name: self._load(self.trained, name) for name in self.setting["methods"]}
        clean = {name: pooled_features(model, self.x) for name, model in models.items()}
        target = self._target()
        probe = fit_probe(target, self.train, seed=self.config.seed)
        diffusion = self._diffusion(target, self.x)
        attacked = self._diffusion(target, self._attack(probe))
        geometry = {
            name: self._geometry(clean[name], pooled_features(models[name], self._attack(models[name])))
            for name in models
        }
        geometry[DIFFUSION] = self._geometry(diffusion, attacked)
        k = min(self.config.neighbours, len(self.x) - 1)
        references = {"diffusion": diffusion} | {name: clean[name] for name in ("standard",) if name in clean}
        similarity = {
            name: {f"with {of}": cknna(features, reference, k=k) for of, reference in references.items()}
            for name, features in clean.items()
        }
        setting = self.setting["setting"]
        self.folder.write_json(
            "result.json",
            {
                "setting": {key: setting[key] for key in ("data", "split", "classifier", "norm", "eps")}
                | {"images": len(self.x), "attack": f"PGD-{self.config.attack_steps} on the margin"},
                "geometry": geometry,
                "similarity": similarity,
                "gradients": self._gradients(models),
            },
        )

    def _gradients(self, models: Mapping[str, nn.Module]) -> dict[str, list[float]]:
        """How the input gradients' spectra differ from DM-AT's, over the frequency, for both alignment targets."""
        if not {"dm-at", "dm-at+dra"} <= models.keys():
            return {}
        batches = [(self.x, self.y)]
        others = {"noisy-input encoder": self._load(self.noisy, "dm-at+dra"), "diffusion model": models["dm-at+dra"]}
        base = gradient_saliency(models["dm-at"], batches)
        maps = {
            f"aligned with the\n{name}": difference_map(base, gradient_saliency(model, batches), normalize=True)
            for name, model in others.items()
        }
        plot_gradient_difference(maps).save(self.folder.path / "figures" / "gradients", formats=("png",))
        # the maps are of an orthonormal DCT, low frequencies first
        return {
            name: radial_profile(one, transform="dct").tolist() for name, one in zip(others, maps.values(), strict=True)
        }

    def _geometry(self, clean: Tensor, attacked: Tensor) -> dict[str, float]:
        return {"alignment": alignment_score(clean, attacked), "uniformity": uniformity_score(clean)}

    def _attack(self, model: nn.Module) -> Tensor:
        steps = self.config.attack_steps
        attack = PGD(eps=self.eps, step_size=2.5 * self.eps / steps, steps=steps, loss="cw")
        return attack(model, self.x, self.y, seed=self.config.seed)

    def _diffusion(self, target: EdmTarget, x: Tensor) -> Tensor:
        """The diffusion model's features of images, with one draw of noise for each image."""
        index = torch.arange(len(x), device=x.device)
        eps = noise.normal(target.noise_shape(x.shape[1:]), seed=self.config.seed, purpose="similarity", index=index)
        return target(x, None, noise=eps)

    def _target(self) -> EdmTarget:
        """The run's diffusion features, without labels."""
        settings = self.setting["config"]["alignment"]
        denoiser = self._load(self.trained, "edm")
        return EdmTarget(denoiser, sigma=settings["sigma"], layer=settings["layer"], label="null")

    def _load(self, folder: Path, name: str) -> nn.Module:
        return rp_models.load(folder / "checkpoints" / f"{name}.safetensors", device=self.device)
