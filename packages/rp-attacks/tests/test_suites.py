from dataclasses import replace
from functools import partial

import pytest
import torch
from rp_attacks import APGD, PGD, Square, Transfer, evaluate, preset, suite
from rp_attacks.diffhammer import DiffHammer
from rp_attacks.settings import SUITE_NORMS, Budget
from rp_attacks.suites import SUITES

from .models import NoisyModel, images, linear, tiny_conv


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_attacks_of_the_radius_asked_for(name: str) -> None:
    attacks = suite(name, eps=0.03, source=tiny_conv(), gradients=("tanh",))
    assert attacks
    norms = {attack.norm for attack in attacks.values()}
    assert name == "unseen" or norms == {SUITE_NORMS.get(name, "linf")}
    for attack in attacks.values():
        assert attack.eps == (0.03 if name != "unseen" else {"linf": 8 / 255, "l2": 1.0, "l1": 12.0}[attack.norm])


def test_settings_are_those_of_the_papers() -> None:
    pgd = suite("pgd200-eot20-linf")["pgd200-linf"]
    assert (pgd.steps, pgd.eot, pgd.step_size, pgd.eps, pgd.start) == (200, 20, 0.007, 8 / 255, "uniform")
    assert suite("pgd200-eot20-l2")["pgd200-l2"].step_size == 0.05
    assert suite("pgd200-eot20-linf", random=False)["pgd200-linf"].eot == 1
    assert list(suite("autoattack")) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert "apgd-t" not in suite("autoattack", classes=3)
    adbm = preset("adbm", norm="l2").attacks["adbm"]
    assert (adbm.l2_step, adbm.select, adbm.step_size) == ("sign", "last", 0.005)
    assert preset("lee-kim")[1:3] == (10, "majority")


def test_the_purifier_suite_is_one_definition_of_the_worst_case() -> None:
    class Offering:
        gradients = ("exact", "identity", "ste-tanh")

        def reconstruction_loss(self, x, *, seed, index): ...
        def with_gradient(self, name): ...

    budget = Budget(steps=20, eot=3, curved_steps=10, curved_eot=2, draws=4, queries=100, query_passes=4)
    net = tiny_conv()
    attacks = suite("purifier", eps=0.1, defence=Offering(), source=net, one_shot=net, surrogate=net, budget=budget)
    pgd = PGD(eps=0.1, step_size=0.0125, steps=20, eot=3, select="best")
    curved = PGD(eps=0.1, step_size=0.025, steps=10, eot=2, select="best", grad="ste-tanh", start="worst")
    on = replace(pgd, steps=10, start="worst")
    assert attacks == {
        "transfer": Transfer(replace(pgd, eot=1, loss="cw"), net),
        "bpda": replace(pgd, grad="identity"),
        "pgd-exact": pgd,
        "one-shot": Transfer(pgd, net),
        "fewer-steps": Transfer(pgd, net),
        "apgd-ce": APGD(eps=0.1, steps=10, eot=3, start="worst"),
        "apgd-dlr": APGD(eps=0.1, steps=10, eot=3, loss="dlr", start="worst"),
        "diffhammer": DiffHammer(eps=0.1, steps=10, restarts=1, draws=4, start="worst"),
        "square": Square(eps=0.1, queries=100, passes=4, rescale_schedule=True, race=True),
        "pgd-ste-tanh": curved,
        "pgd-cw": replace(on, loss="cw"),
        "keep-reconstruction": replace(on, reconstruction_weight=10.0),
    }
    bare = suite("purifier", eps=0.1, random=False, budget=budget)
    assert list(bare) == ["pgd-exact", "apgd-ce", "apgd-dlr", "square"]
    assert (bare["pgd-exact"].eot, bare["apgd-ce"].eot, bare["square"].passes) == (1, 1, 1)
    assert list(suite("purifier", norm="l2", random=False, classes=2)) == ["pgd-exact", "apgd-ce"]
    assert suite("purifier", eps=0.1, budget=replace(budget, step_size=0.05))["pgd-exact"].step_size == 0.05


def test_suites_of_a_defence_attack_its_rules_beside_its_own() -> None:
    class Offering:
        gradients = ("exact", "identity", "tanh")

        def with_gradient(self, name): ...

    assert list(suite("pgd200-eot20-l2", defence=Offering())) == [
        "pgd200-l2", "pgd200-l2-identity", "pgd200-l2-tanh",
    ]  # fmt: skip
    assert list(suite("bpda-eot20", defence=Offering(), gradients=["tanh"])) == ["bpda-identity", "bpda-tanh"]


def test_gradient_attacks_of_each_norm_and_black_boxes() -> None:
    net, budget = tiny_conv(), Budget(steps=10, eot=2, search=1, search_steps=7, queries=20, label_queries=100)
    of_norm = partial(suite, "gradient", eps=0.1, source=net, budget=budget)
    names = {norm: list(of_norm(norm=norm)) for norm in ("l1", "l2", "linf")}
    assert names["linf"] == ["transfer-linf", "pgd-linf", "apgd-ce-linf", "apgd-dlr-linf"]
    assert names["l2"] == ["transfer-l2", "pgd-l2", "apgd-ce-l2", "apgd-dlr-l2", "cw-l2", "deepfool-l2"]
    assert names["l1"] == ["transfer-l1", "pgd-l1"]
    random, fixed = (suite("blackbox", eps=0.1, source=net, random=r, budget=budget) for r in (True, False))
    assert list(random) == list(fixed) == ["fab", "pgd-transfer", "square", "rays"]
    assert (random["square"].queries, random["square"].passes, random["rays"].passes) == (20, 20, 5)
    assert (fixed["square"].queries, fixed["square"].passes, fixed["rays"].passes) == (100, 1, 1)
    assert list(suite("purifier-quick", eps=0.1, source=net)) == ["transfer", "bpda"]


def test_a_budget_is_checked() -> None:
    for change, message in [
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Budget(**change)


def test_a_wrong_name_lists_the_nearest() -> None:
    with pytest.raises(KeyError, match="did you mean autoattack"):
        suite("autoatack")
    with pytest.raises(ValueError, match="there are adbm"):
        preset("diffpure", norm="l1")


def test_the_quick_suite_breaks_an_undefended_model() -> None:
    model, x = tiny_conv(), images(10, (3, 8, 8))
    report = evaluate(model, x, model(x).argmax(1), suite("quick", eps=0.1, random=False), seed=0, probes=0)
    assert report.robust_accuracy == 0


def test_a_first_look_asks_a_random_defence_a_few_hundred_times_an_image() -> None:
    model, x, asked = tiny_conv(), images(2, (3, 8, 8)), 0

    class Counting(NoisyModel):
        gradients = ("tanh",)

        def with_gradient(self, name):
            return self

        def with_noise(self, *, seed, index):
            nonlocal asked
            asked += len(index)
            return super().with_noise(seed=seed, index=index)

    defence = Counting(model, 1e-6)
    for attack in suite("quick", eps=1e-6, gradients=("tanh",)).values():  # nothing breaks, nothing stops early
        attack(defence, x, model(x).argmax(1), seed=0)
    two_losses, rule = 2 * (20 * 5 + 5), 10 * 5 + 5
    assert asked > len(x) * (two_losses + rule + 50 * 3)  # of a query's five passes three decide whether it is given up
    assert asked < len(x) * (two_losses + rule + 50 * 5)


def test_diffpure_preset_attacks_and_judges_averages_of_different_length() -> None:
    model, x = linear((1, 4, 4), 3), images(4)
    y = model(x).argmax(1)
    calls = []

    class Counting(NoisyModel):
        def with_noise(self, *, seed, index):
            calls.append(len(index))
            return super().with_noise(seed=seed, index=index)

    protocol = preset("diffpure")
    judged = protocol.judge(Counting(model, 0.1))
    report = evaluate(judged, x, y, protocol.attacks, seed=0, passes=protocol.passes, exhaustive=True, probes=0)
    assert report.random
    assert 0 <= protocol.accuracy(report).estimate <= 1
    assert len(calls) > 3 * 150


def test_mean_logits_pass_the_backward_rules_of_their_defence_on() -> None:
    from rp_attacks import FixedNoise, MeanLogits
    from rp_attacks.defence import with_gradient

    class Offering(NoisyModel):
        gradients = ("identity",)

        def with_gradient(self, name: str):
            return Offering(self.model, 2 * self.sigma)

    defence = Offering(tiny_conv(), 0.1)
    assert with_gradient(MeanLogits(defence, passes=2, seed=0), "identity").model.sigma == 0.2
    fixed = with_gradient(FixedNoise(defence, seed=3), "identity")
    assert (fixed.model.sigma, fixed.seed) == (0.2, 3)
    assert torch.isfinite(fixed(images(2, (3, 8, 8)))).all()
