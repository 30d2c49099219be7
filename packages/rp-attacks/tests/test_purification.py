"""Attacks adapted to a purifier, on a toy whose every part is known."""

import torch
from rp_attacks import PGD, FixedNoise, Transfer, evaluate, suite
from rp_attacks.losses import cross_entropy
from torch import Tensor, nn

from .models import images, tiny_conv


class ToyPurifier(nn.Module):
    """Descends a quadratic by sign steps with random step lengths: its exact gradient is the identity.

    Like MAE-Pure it offers a smooth backward rule, its own loss, and noise from (seed, index).
    """

    gradients = ("identity", "tanh")

    def __init__(self, steps: int = 3, rule: str = "exact") -> None:
        super().__init__()
        self.classifier, self.steps, self.rule = tiny_conv(), steps, rule
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.with_noise(seed=int(torch.randint(2**31, ())), index=torch.arange(len(x)))(x)

    def with_gradient(self, name: str) -> "ToyPurifier":
        return ToyPurifier(self.steps, name)

    def with_noise(self, *, seed: int, index: Tensor):
        from rp_attacks import noise

        length = noise.uniform((self.steps, 1, 1, 1), seed=seed, purpose="toy", index=index, like=torch.zeros(()))

        def forward(x: Tensor) -> Tensor:
            start = x
            for step in range(self.steps):
                slope = x - 0.5
                hard = slope.sign()
                soft = torch.tanh(slope / 0.1) if self.rule == "tanh" else hard
                direction = soft + (hard - soft).detach()
                x = x - 0.02 * length[:, step] * direction
            x = start + (x - start).detach() if self.rule == "identity" else x
            return self.classifier(x)

        return forward

    def reconstruction_loss(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        return (x - 0.5).square().flatten(1).mean(dim=1)


def problem(count: int = 6):
    defence, x = ToyPurifier(), images(count, (3, 8, 8))
    return defence, x, defence.classifier(x).argmax(1), torch.arange(count)


def test_the_exact_gradient_through_sign_steps_is_bpda() -> None:
    defence, x, y, _ = problem()
    exact, identity = (PGD(steps=4, eot=3, grad=grad)(defence, x, y, seed=0) for grad in ("exact", "identity"))
    torch.testing.assert_close(exact, identity, atol=0, rtol=0)
    tanh = PGD(steps=4, eot=3, grad="tanh")(defence, x, y, seed=0)
    assert not torch.equal(tanh, exact)


def test_the_reconstruction_term_keeps_the_purifiers_loss_low() -> None:
    defence, x, y, index = problem()
    kind = {"eps": 0.05, "step_size": 0.01, "steps": 10}
    plain, adaptive = (PGD(**kind, reconstruction_weight=w)(defence, x, y, seed=0) for w in (0.0, 1e3))
    low, high = (defence.reconstruction_loss(z, seed=0, index=index) for z in (adaptive, plain))
    assert (low < high).all()
    assert (low < defence.reconstruction_loss(x, seed=0, index=index)).all()


def test_known_noise_makes_a_stronger_attack_than_fresh_noise() -> None:
    defence, x, y, index = problem()
    known = FixedNoise(defence, seed=9)
    x_adv = PGD(eps=0.02, step_size=0.005, steps=10)(known, x, y, seed=0, index=index)
    logits = known.with_noise(seed=0, index=index)(x_adv)
    assert (cross_entropy(logits, y) > cross_entropy(known(x), y)).all()
    report = evaluate(known, x, y, {"pgd": PGD(eps=0.02)}, seed=0, passes=2, probes=0)
    assert (report.clean.right[:, 0] == report.clean.right[:, 1]).all()


def test_a_shortened_purifier_is_a_source_for_transfer() -> None:
    defence, x, y, _ = problem()
    short = ToyPurifier(steps=1)
    x_adv = Transfer(PGD(steps=3), short)(defence, x, y, seed=0)
    assert torch.equal(x_adv, PGD(steps=3)(short, x, y, seed=0))


def test_the_purifier_suite_runs_every_rule_and_the_report_compares_them() -> None:
    defence, x, y, _ = problem(4)
    attacks = suite("purifier", eps=0.02, defence=defence, source=defence.classifier, one_shot=ToyPurifier(1))
    assert list(attacks) == [
        "transfer", "bpda", "one-shot", "apgd-ce", "apgd-dlr", "diffhammer", "square", "pgd-tanh", "pgd-cw",
        "keep-reconstruction",
    ]  # fmt: skip
    quick = {name: PGD(eps=0.02, steps=2, grad=getattr(a, "grad", "exact")) for name, a in attacks.items()}
    report = evaluate(defence, x, y, quick, seed=0, probes=4, passes=4)
    (rules,) = (finding for finding in report.findings if finding.check == "surrogates")
    assert rules.text == "Every backward rule that the defence offers was run as an attack of its own: identity, tanh."
    some = {"pgd-tanh": quick["pgd-tanh"]}
    (rules,) = (
        f for f in evaluate(defence, x, y, some, seed=0, probes=4, passes=4).findings if f.check == "surrogates"
    )
    assert "(exact" in rules.text
    assert "identity" in rules.text
    assert "tanh" not in rules.text
    assert all(p.grad is None for p in defence.parameters())
