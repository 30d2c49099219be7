import inspect
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import pytest
import rp_models
import torch
from rp_models.checkpoint import CheckpointError
from rp_models.data.catalog import describe
from rp_models.data.datasets import DataError
from rp_purify import (
    DiffPure,
    GaussianNoise,
    LikelihoodMaximisation,
    MAEPure,
    MAEReconstruction,
    MaskDiTPure,
    NoPurification,
    OneStepDenoise,
    Purifier,
)
from rp_purify.adp import ADP
from rp_purify.build import _NAMES, _PURIFIERS, build_purifier
from rp_purify.coup import COUP
from rp_purify.ddim_purify import DDIMPurify
from rp_purify.edm_purify import EDMPurify
from rp_purify.gdmp import GDMP
from rp_purify.gradual import GradualPurify
from rp_purify.latent_maskdit import LatentMaskDiTPure
from rp_purify.nim import NIMReconstruction
from rp_purify.presets import TABLES_13_AND_14
from rp_purify.random_steps import RandomSteps
from rp_purify.resized import Resized
from rp_purify.rival_presets import NOTES, RIVALS, names, preset_settings
from rp_purify.scoreopt import ScoreOptN
from rp_purify.settings import KINDS, DiffPureSettings, MAEPureSettings, PurifierSettings, settings_of, uses
from rp_purify.soap import SOAP, LabelConsistency, Reconstruction, Rotation
from torch import Tensor

from .models import ShrinkingDenoiser, TinyClassifier

CLASSES = {
    "mae-pure": MAEPure,
    "maskdit-pure": MaskDiTPure,
    "mae-reconstruction": MAEReconstruction,
    "denoise": OneStepDenoise,
    "noise": GaussianNoise,
    "random-steps": RandomSteps,
    "diffpure": DiffPure,
    "likelihood": LikelihoodMaximisation,
    "gradual": GradualPurify,
    "adbm": DDIMPurify,
    "edm-purify": EDMPurify,
    "coup": COUP,
    "gdmp": GDMP,
    "scoreopt-n": ScoreOptN,
    "adp": ADP,
    "soap": SOAP,
    "nim": NIMReconstruction,
    "none": NoPurification,
}
OF_NETWORKS = {"mae", "model", "autoencoder", "auxiliary", "auxiliary_model", "resize"}


@pytest.fixture
def maskdit(tmp_path: Path) -> str:
    file = tmp_path / "maskdit.safetensors"
    rp_models.save(
        rp_models.build("maskdit-digits", width=16, heads=2, depth=1, decoder_width=16, decoder_depth=1), file
    )
    return str(file)


def build(kind: str, maskdit: str, **settings: object) -> Purifier:
    network = {"model": maskdit} if "model" in uses(kind) else {}
    chosen = settings_of(kind, **network, **settings)
    return build_purifier(chosen, describe("digits"), torch.device("cpu"), classifier=TinyClassifier())


def test_every_kind_has_its_purifier_and_every_setting_changes_it(maskdit: str) -> None:
    changed = {"steps": 3, "step_size": 0.02, "halve": True, "eta": None, "mask_rate": 0.25, "masks": "fixed"}
    changed |= {"masks_per_step": 3, "complementary": True, "sigma": 0.6, "noise": "fixed", "mae_weight": 0.0}
    changed |= {"noise_std": 0.2, "keep_visible": True, "std": 0.1, "times": 50, "reverse_steps": 7, "solver": "ode"}
    changed |= {"levels": (0.2, 0.3), "lr": 0.05, "per": "batch", "max_times": (20,) * 8, "round_steps": (2,) * 8}
    changed |= {"ddim_eta": 0.5, "table": "vp", "clip_denoised": False, "stack": 2, "weight": 2.0, "noised": True}
    changed |= {"rounds": 2, "ptb": 0.01, "guidance": "ssim", "respacing": 250, "beyond": False, "radii": 3}
    changed |= {"noised_reference": False, "variance": "posterior", "lam": 0.1, "stop": 0.01, "level": 0.2}
    changed |= {"delta": 0.02, "churn": 3.0}
    assert list(KINDS) == [*list(CLASSES)[:-1], "latent-maskdit-pure", "none"]
    for kind, cls in CLASSES.items():
        base = build(kind, maskdit)
        assert type(base) is cls
        assert not base.training
        for name in set(uses(kind)) - {*OF_NETWORKS, "schedule", "sigmas"}:
            value = not base.halve if name == "halve" else changed[name]  # type: ignore[union-attr]
            # one step each thousandth is all that Euler-Maruyama, COUP's default, has
            beside = {"solver": "sde"} if (kind, name) == ("coup", "reverse_steps") else {}
            assert repr(build(kind, maskdit, **{name: value}, **beside)) != repr(build(kind, maskdit, **beside)), name
    annealed = build("maskdit-pure", maskdit, schedule="annealed", sigmas=(0.5, 0.2))
    assert (annealed.schedule, annealed.sigmas) == ("annealed", (0.5, 0.2))  # type: ignore[union-attr]
    assert (build("mae-pure", maskdit).halve, build("maskdit-pure", maskdit).halve) == (True, False)  # type: ignore[union-attr]


def test_the_defaults_of_settings_are_those_of_the_purifiers(maskdit: str) -> None:
    """But of MAE-Pure and MaskDiT-Pure, whose settings start from the shipped networks of the digits."""
    purifiers = {**_PURIFIERS, "latent-maskdit-pure": LatentMaskDiTPure, "soap": SOAP}
    compared = 0
    for kind, make in purifiers.items():
        parameters = inspect.signature(make).parameters
        renamed = {"step_size": "step", "radii": "levels"} if kind == "soap" else _NAMES.get(kind, {})
        for setting in fields(KINDS[kind]):
            parameter = parameters.get(renamed.get(setting.name, setting.name))
            if kind == "mae-pure" or parameter is None or setting.default in (MISSING, None):
                continue
            if parameter.default is not inspect.Parameter.empty:
                assert setting.default == parameter.default, f"{kind}: {setting.name}"
                compared += 1
    assert compared > 40


def test_settings_know_their_kind_and_say_themselves() -> None:
    settings = settings_of("mae_pure", steps=3)
    assert isinstance(settings, MAEPureSettings)
    assert asdict(settings)["kind"] == "mae-pure"
    assert settings.in_words() == (
        "steps 3, step_size 0.01, eta 0.15, mask_rate 0.5, masks fresh, masks_per_step 1, complementary False"
    )
    assert settings_of("none").in_words() == "as it is"
    assert replace(settings, steps=4) == settings_of("mae-pure", steps=4)


def test_the_one_pass_form_has_the_network_of_the_iterative_one() -> None:
    assert settings_of("mae-pure", mae="a").one_pass() == settings_of("mae-reconstruction", mae="a")
    for kind in ("maskdit-pure", "likelihood"):
        assert settings_of(kind, model="b").one_pass() == settings_of("denoise", model="b")
    assert settings_of("noise").one_pass() is None


@pytest.mark.parametrize(
    ("kind", "calls"),
    [("diffpure", 3), ("coup", 3), ("adbm", 3), ("edm-purify", 5), ("gdmp", 12), ("gradual", 6 + 2 * 3)],
)
def test_the_shortened_form_has_the_same_noise_in_fewer_steps(kind: str, calls: int, maskdit) -> None:
    settings = settings_of(kind, model=maskdit)
    shorter = settings.shortened(3)
    whole, short = (
        build_purifier(one, describe("digits"), "cpu", classifier=Counting()) for one in (settings, shorter)
    )
    for mine, theirs in zip(short.rounds, whole.rounds, strict=True):
        assert mine.std == pytest.approx(theirs.std, rel=0.02)  # GDMP's table has entries for whole numbers alone
        assert mine.signal == pytest.approx(theirs.signal, rel=0.02)
    short.model = counting = Counting()
    short(torch.full((1, 1, 8, 8), 0.5), seed=0, index=torch.arange(1))
    assert counting.calls == calls  # a Heun step calls it twice, the last one once
    assert shorter.shortened(3) is None
    assert settings_of("gradual", model=maskdit).shortened(5).round_steps == (1, 1, 1, 1, 1, 1, 5, 5)  # as published
    assert settings_of("mae-pure", mae="a").shortened(3) is None


class Counting(ShrinkingDenoiser):
    """Counts its calls; also a classifier, for guidance."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, sigma: Tensor | None = None, **rest: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1)[:, :10] if sigma is None else super().forward(x, sigma)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("maskdit", {}, "kind must be one of mae-pure, maskdit-pure, .* got 'maskdit'"),
        (
            "noise",
            {"eta": 0.1, "steps": 1},
            "does not use purifier.eta, purifier.steps; its settings are std",
        ),
        ("none", {"std": 0.1}, "its settings are none"),
        ("diffpure", {}, "kind diffpure needs an EDM network; name its checkpoint with --purifier.model"),
        ("maskdit-pure", {}, "kind maskdit-pure needs a MaskDiT"),
        ("mae-pure", {"mae": ""}, "kind mae-pure needs a masked autoencoder; name its checkpoint with --purifier.mae"),
        ("mae-pure", {"eta": 8.0}, r"purifier.eta must be in \[0, 1\], got 8"),
        ("mae-pure", {"masks_per_step": 0}, "masks_per_step must be at least 1"),
        ("maskdit-pure", {"model": "m", "schedule": "grid"}, "purifier.sigmas are the noise levels"),
        ("maskdit-pure", {"model": "m", "schedule": "grid", "sigmas": (0.1,)}, "two or more positive"),
        ("diffpure", {"model": "m", "times": 0}, "times must be in 1..1000"),
        ("likelihood", {"model": "m", "levels": (0.6, 0.4)}, "two rising positive numbers"),
    ],
)
def test_what_a_kind_does_not_use_or_cannot_be_is_refused(kind: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(kind, **settings)


def test_what_does_not_suit_is_named(tmp_path: Path, maskdit: str) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(DataError, match=r"purifier mae-pure: .* keeps none"):
        build_purifier(MAEPureSettings(mask_rate=0.99), describe("digits"), cpu)
    with pytest.raises((CheckpointError, DataError), match="maskdit"):
        build_purifier(MAEPureSettings(mae=maskdit), describe("digits"), cpu)
    for kind in ("diffpure", "gdmp", "scoreopt-n"):
        message = r"mae-digits: expected a denoiser D\(x; sigma\), this is a MaskedAutoencoder"
        with pytest.raises(CheckpointError, match=message):
            build_purifier(settings_of(kind, model="mae-digits"), describe("digits"), cpu)
    with pytest.raises(DataError, match=r"purifier gdmp: a learned variance needs a network of guided-diffusion"):
        build_purifier(settings_of("gdmp", model=maskdit, variance="learned"), describe("digits"), cpu)
    with pytest.raises(CheckpointError):
        build_purifier(DiffPureSettings(model=str(tmp_path / "missing")), describe("digits"), cpu)
    with pytest.raises(TypeError, match="no purifier for PurifierSettings"):
        build_purifier(PurifierSettings(), describe("digits"), cpu)


def test_purifiers_that_ask_the_classifier_or_further_networks_say_what_is_missing(
    tmp_path: Path, maskdit: str
) -> None:
    cpu, info = torch.device("cpu"), describe("digits")
    for settings in (settings_of("coup", model=maskdit), settings_of("soap")):
        with pytest.raises(DataError, match=f"kind {settings.kind} asks the classifier that it defends: name"):
            build_purifier(settings, info, cpu)
    with pytest.raises(ValueError, match=r"needs a network; .* with --purifier\.auxiliary-model"):
        settings_of("soap", auxiliary="rot")
    with pytest.raises(ValueError, match="needs the autoencoder of its latents"):
        settings_of("latent-maskdit-pure", model=maskdit)
    with pytest.raises(CheckpointError, match="expected an autoencoder, this is a MaskDiT"):
        build_purifier(settings_of("latent-maskdit-pure", model=maskdit, autoencoder=maskdit), info, cpu)
    built = build_purifier(settings_of("soap"), info, cpu, classifier=TinyClassifier())
    assert isinstance(built, SOAP)
    assert isinstance(built.auxiliary, LabelConsistency)
    rp_models.save(rp_models.build("vit-digits", num_classes=4, width=16, depth=1, heads=2), tmp_path / "turns.st")
    for auxiliary, cls in (("rot", Rotation), ("rec", Reconstruction)):
        settings = settings_of("soap", auxiliary=auxiliary, auxiliary_model=str(tmp_path / "turns.st"))
        built = build_purifier(settings, info, cpu, classifier=TinyClassifier())
        assert isinstance(built, SOAP)
        assert isinstance(built.auxiliary, cls)


def test_a_latent_model_comes_with_its_autoencoder(tmp_path: Path) -> None:
    vae = rp_models.build(
        "autoencoder-kl", in_channels=1, width=32, multipliers=[1, 1], blocks=1, attention=[False, False], z_channels=4
    )
    rp_models.save(vae, tmp_path / "vae.st")
    sizes = {"image_size": 4, "in_channels": 4, "patch_size": 2, "width": 16, "heads": 2, "depth": 1}
    decoder = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    rp_models.save(rp_models.build("maskdit", **sizes, **decoder, num_classes=0), tmp_path / "latent.st")
    files = {"model": str(tmp_path / "latent.st"), "autoencoder": str(tmp_path / "vae.st")}
    settings = settings_of("latent-maskdit-pure", **files, steps=1, chunk=1)
    built = build_purifier(settings, describe("digits"), torch.device("cpu"))
    assert isinstance(built, LatentMaskDiTPure)
    assert (built.steps, built.chunk, built.eta) == (1, 1, 4 / 255)
    assert built(torch.rand(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_images_are_resized_for_a_network_of_another_size(maskdit: str) -> None:
    info = replace(describe("digits"), image_size=7)
    settings = settings_of("diffpure", model=maskdit, times=2, resize=8)
    built = build_purifier(settings, info, torch.device("cpu"))
    assert isinstance(built, Resized)
    assert built(torch.rand(2, 1, 7, 7)).shape == (2, 1, 7, 7)
    with pytest.raises(DataError):
        build_purifier(replace(settings, resize=None), info, torch.device("cpu"))


def test_every_preset_has_settings_and_belongs_to_its_images(maskdit: str) -> None:
    assert set(NOTES) <= set(RIVALS)
    assert (
        len(names()) == len(set(names())) == sum(map(len, RIVALS.values())) + sum(map(len, TABLES_13_AND_14.values()))
    )
    for name in names():
        data = name.split("/")[0]
        info = replace(describe("cifar10"), name=data, image_size={"tiny-imagenet": 64, "imagenet": 224}.get(data, 32))
        networks = {"mae": "m", "model": "m", "autoencoder": "a"}
        kind = preset_kind(name)
        given = {role: file for role, file in networks.items() if role in uses(kind)}
        assert preset_settings(name, info, **given).kind == kind
    with pytest.raises(DataError, match="imagenet/diffpure is for images of 224 pixels, those of cifar10 have 32"):
        preset_settings("imagenet/diffpure", describe("cifar10"), model="m")
    with pytest.raises(DataError, match="no preset 'mnist/adbm'; there are cifar10/adbm, svhn/adbm"):
        preset_settings("mnist/adbm", describe("digits"))
    settings = preset_settings("cifar10/diffpure", describe("cifar10"), model="m", times=50)
    assert settings == settings_of("diffpure", model="m", solver="euler-maruyama", times=50)
    assert preset_settings("cifar10/mae-pure", describe("cifar10"), mae="m").kind == "mae-pure"


def preset_kind(name: str) -> str:
    data, method = name.split("/")
    if method in RIVALS:
        return RIVALS[method][data][0]
    kind = method.removeprefix("r")
    return f"latent-{kind}" if (data, kind) == ("imagenet", "maskdit-pure") else kind
