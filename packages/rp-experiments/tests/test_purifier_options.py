from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import tyro
from rp_experiments.purifier_options import REGISTRY, check_presets
from rp_purify import preset
from rp_purify.settings import MAEPureSettings, PurifierSettings, settings_of


@dataclass(frozen=True)
class Options:
    purifier: PurifierSettings = field(default_factory=MAEPureSettings)


def parsed(*words: str, default: Options | None = None) -> PurifierSettings:
    return tyro.cli(Options, args=words, default=default or Options(), registry=REGISTRY).purifier


def test_a_kind_takes_its_own_settings_and_keeps_what_it_shares_with_the_recipes() -> None:
    assert parsed() == settings_of("mae-pure")
    assert parsed("--purifier.kind", "mae_pure", "--purifier.steps", "2") == settings_of("mae-pure", steps=2)
    assert parsed("--purifier.eta", "None") == settings_of("mae-pure", eta=None)
    recipe = Options(settings_of("mae-pure", steps=7, step_size=0.3, masks_per_step=2))
    changed = parsed("--purifier.masks-per-step", "1", default=recipe)
    assert changed == settings_of("mae-pure", steps=7, step_size=0.3)
    words = ("--purifier.kind", "maskdit-pure", "--purifier.model", "m", "--purifier.sigma", "0.5")
    assert parsed(*words, default=recipe) == settings_of("maskdit-pure", model="m", sigma=0.5, steps=7, step_size=0.3)
    assert parsed("--purifier.kind", "noise", "--purifier.std", "0.1") == settings_of("noise", std=0.1)


def test_what_a_kind_does_not_use_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--purifier.kind", "noise", "--purifier.steps", "3", "--purifier.eta", "0.3")
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "purifier.kind noise does not use purifier.steps, purifier.eta; its settings are std" in shown


def test_help_says_what_each_setting_is_and_which_kinds_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in (
        "of mae-pure, maskdit-pure, random-steps, likelihood,",
        "of noise, adp, nim: standard deviation",
        "(default: 20)",
    ):
        assert text in shown


def test_a_preset_gives_published_settings_the_rest_of_the_line_changes_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = parsed("--purifier.preset", "cifar10/mae-pure", "--purifier.mae", "m.safetensors")
    assert found == settings_of("mae-pure", mae="m.safetensors", **preset("cifar10", "mae"))
    found = parsed("--purifier.preset", "cifar10/adbm", "--purifier.model", "m", "--purifier.steps", "3")
    assert found == settings_of("adbm", model="m", times=100, steps=3)
    with pytest.raises(SystemExit):
        parsed("--purifier.preset", "cifar10/adbm", "--purifier.kind", "noise")
    assert "is of kind adbm" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    with pytest.raises(ValueError, match="of 32 pixels, those of digits have 8"):
        check_presets(["--purifier.preset", "cifar10/adbm"], SimpleNamespace(config=SimpleNamespace(data="digits")))
    check_presets(["--purifier.preset=cifar10/adbm"], SimpleNamespace(config=SimpleNamespace(data="cifar10")))
