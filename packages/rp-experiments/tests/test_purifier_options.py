from dataclasses import dataclass, field

import pytest
import tyro
from rp_experiments.purifier_options import REGISTRY
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
        "of mae-pure, maskdit-pure, likelihood, adbm,",
        "of noise, adp, nim: standard deviation",
        "(default: 20)",
    ):
        assert text in shown
