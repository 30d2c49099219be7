from dataclasses import asdict, replace
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
from rp_purify.build import build_purifier
from rp_purify.settings import KINDS, DiffPureSettings, MAEPureSettings, PurifierSettings, settings_of, uses

CLASSES = {
    "mae-pure": MAEPure,
    "maskdit-pure": MaskDiTPure,
    "mae-reconstruction": MAEReconstruction,
    "denoise": OneStepDenoise,
    "noise": GaussianNoise,
    "diffpure": DiffPure,
    "likelihood": LikelihoodMaximisation,
    "none": NoPurification,
}


@pytest.fixture
def maskdit(tmp_path: Path) -> str:
    file = tmp_path / "maskdit.safetensors"
    rp_models.save(
        rp_models.build("maskdit-digits", width=16, heads=2, depth=1, decoder_width=16, decoder_depth=1), file
    )
    return str(file)


def build(kind: str, maskdit: str, **settings: object) -> Purifier:
    network = {"model": maskdit} if "model" in uses(kind) else {}
    return build_purifier(settings_of(kind, **network, **settings), describe("digits"), torch.device("cpu"))


def test_every_kind_has_its_purifier_and_every_setting_changes_it(maskdit: str) -> None:
    changed = {"steps": 3, "step_size": 0.02, "halve": True, "eta": None, "mask_rate": 0.25, "masks": "fixed"}
    changed |= {"masks_per_step": 3, "complementary": True, "sigma": 0.5, "noise": "fixed", "mae_weight": 0.0}
    changed |= {"noise_std": 0.2, "keep_visible": True, "std": 0.1, "times": 50, "reverse_steps": 7, "solver": "ode"}
    changed |= {"levels": (0.2, 0.3), "lr": 0.05}
    assert list(KINDS) == list(CLASSES)
    for kind, cls in CLASSES.items():
        base = build(kind, maskdit)
        assert type(base) is cls
        assert not base.training
        for name in set(uses(kind)) - {"mae", "model", "schedule", "sigmas"}:
            value = not base.halve if name == "halve" else changed[name]  # type: ignore[union-attr]
            assert repr(build(kind, maskdit, **{name: value})) != repr(base), (kind, name)
    annealed = build("maskdit-pure", maskdit, schedule="annealed", sigmas=(0.5, 0.2))
    assert (annealed.schedule, annealed.sigmas) == ("annealed", (0.5, 0.2))  # type: ignore[union-attr]
    assert (build("mae-pure", maskdit).halve, build("maskdit-pure", maskdit).halve) == (True, False)  # type: ignore[union-attr]


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
    with pytest.raises(CheckpointError):
        build_purifier(DiffPureSettings(model=str(tmp_path / "missing")), describe("digits"), cpu)
    with pytest.raises(TypeError, match="no purifier for PurifierSettings"):
        build_purifier(PurifierSettings(), describe("digits"), cpu)
