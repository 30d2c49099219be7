"""Warnings about a purifier's settings."""

import pytest
import rp_models
from rp_experiments.cautions import cautions, tell
from rp_purify.settings import settings_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An autoencoder whose notes name a mask rate, as `pretrain.py` leaves it."""
    path = tmp_path_factory.mktemp("networks") / "mae.safetensors"
    rp_models.save(rp_models.load("mae-digits"), path, notes={"mask_rate": 0.75})
    return str(path)


def test_a_radius_above_that_of_the_attack_is_said() -> None:
    (said,) = cautions(settings_of("mae-pure", eta=0.2), 0.15)
    assert "eta 0.2 exceeds the attack's eps 0.15" in said
    assert cautions(settings_of("mae-pure", eta=0.15), 0.15) == []
    assert cautions(settings_of("mae-pure", eta=None), 0.15) == []
    assert cautions(settings_of("noise"), 0.15) == []


def test_a_mask_rate_far_from_the_one_of_training_is_said(trained, capsys) -> None:
    (said,) = cautions(settings_of("mae-pure", mask_rate=0.25), 0.15, [trained])
    assert "trained with mask rate 0.75 and descends with 0.25" in said
    assert cautions(settings_of("mae-pure", mask_rate=0.5), 0.15, [trained, "nowhere.safetensors"]) == []
    tell("MAE-Pure", [said])
    assert capsys.readouterr().err.startswith("warning: MAE-Pure: the network was trained")
