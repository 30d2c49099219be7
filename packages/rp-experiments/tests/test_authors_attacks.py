"""The authors' own attacks: what each protocol becomes."""

from dataclasses import replace

import pytest
import rp_models
import torch
from rp_attacks import APGD, PGD
from rp_attacks.eot import MeanLogits
from rp_attacks.presets import preset
from rp_attacks.transfer import Transfer
from rp_experiments import authors_attacks
from rp_experiments.recipes.authors_attacks import Protocol
from rp_experiments.recipes.compare_purifiers import PROTOCOLS, TITLES, Budget
from rp_purify import Defended, GaussianNoise, MAEPure

EPS = 8 / 255


@pytest.fixture(scope="module")
def defence():
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    return Defended(GaussianNoise(0.1), classifier).eval()


def test_full_protocols_are_those_of_the_presets_up_to_the_rounding_of_their_steps(defence) -> None:
    (adbm,) = authors_attacks.attacks_of(PROTOCOLS["adbm"], defence, EPS).values()
    known = preset("adbm").attacks["adbm"]
    assert replace(adbm, step_size=known.step_size) == known
    assert adbm.step_size == pytest.approx(known.step_size, rel=0.02)  # 0.007 of 8/255 is 0.223
    (gradual,) = authors_attacks.attacks_of(PROTOCOLS["gradual"], defence, EPS).values()
    known = preset("lee-kim").attacks["lee-kim"]
    assert replace(gradual, step_size=known.step_size) == known
    assert (PROTOCOLS["gradual"].passes, PROTOCOLS["gradual"].verdict) == (10, "majority")


def test_every_protocol_names_attacks_on_what_it_says(defence) -> None:
    assert set(PROTOCOLS) <= set(TITLES)
    soap = authors_attacks.attacks_of(PROTOCOLS["soap"], defence, EPS)["published"]
    assert isinstance(soap, Transfer)
    assert soap.source is defence.classifier
    coup = authors_attacks.attacks_of(PROTOCOLS["coup"], defence, EPS)
    assert [(type(attack), attack.grad, attack.loss) for attack in coup.values()] == [
        (APGD, "exact", "ce"),  # noise has no detached rule
        (APGD, "exact", "dlr"),
    ]
    adp = authors_attacks.attacks_of(PROTOCOLS["adp"], defence, EPS)["published"]
    assert isinstance(adp, PGD)
    assert (adp.steps, adp.eot, adp.grad, adp.eps) == (40, 15, "identity", EPS)
    judge = authors_attacks.judge_of(PROTOCOLS["adp"], defence)
    assert isinstance(judge, MeanLogits)
    assert judge.passes == 10
    assert authors_attacks.judge_of(PROTOCOLS["adbm"], defence) is defence


def test_a_rule_that_the_defence_has_is_taken() -> None:
    defence = Defended(MAEPure(rp_models.load("mae-digits"), steps=1), torch.nn.Flatten())
    (attack,) = authors_attacks.attacks_of(Protocol(steps=1, eot=1, grad="ste-tanh"), defence, EPS).values()
    assert attack.grad == "ste-tanh"


def test_a_budget_cuts_protocols_and_the_usual_one_leaves_them() -> None:
    for protocol in PROTOCOLS.values():
        assert protocol.within(steps=Budget().published_steps, eot=Budget().published_eot) == protocol
    cut = PROTOCOLS["likelihood"].within(steps=20, eot=3)
    assert (cut.steps, cut.eot, cut.judged) == (20, 3, 30)
    assert "PGD-20, 3 passes a gradient (identity)" in cut.in_words()
