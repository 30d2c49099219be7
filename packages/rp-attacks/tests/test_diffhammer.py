"""The selective attack: its weights against the published code's, and what it does to random defences."""

import json

import numpy as np
import pytest
import torch
from rp_attacks import PGD, evaluate
from rp_attacks.attack import starting_at
from rp_attacks.diffhammer import DiffHammer, graft, select_draws
from torch import Tensor, nn

from .models import NoisyModel, images, linear, load_golden, tiny_conv


@pytest.mark.parametrize("name", ["rb_diffhammer_em", "rb_diffhammer_em_k2"])
def test_selection_and_weights_are_those_of_the_published_code(name: str) -> None:
    golden = load_golden(name)
    config = json.loads(str(golden["config"]))
    loss, grads = (torch.from_numpy(golden[key]) for key in ("in_loss", "in_grads"))
    selected = select_draws(loss, grads, count=config["n_eot"], eps=config["eps"])
    assert np.array_equal(selected, golden["out_selected"])
    grafted = graft(loss, grads, selected, sharpness=config["em_lam"])
    np.testing.assert_allclose(grafted, golden["out_em_grad"], atol=1e-6)  # float32, another order of summation


def slow_twin(loss: Tensor, grads: Tensor, count: int, eps: float, norm: str, em_steps: int):
    """Selection and weights of one image by loops."""
    draws = range(len(loss))
    u = (lambda g: g.sign()) if norm == "linf" else (lambda g: g / g.norm())
    elu = lambda value: value if value > 0 else value.exp() - 1  # noqa: E731
    score = [sum(elu(loss[j] + eps * u(grads[i]) @ grads[j]) for j in draws) for i in draws]
    selected = sorted(draws, key=lambda i: -score[i])[:count]
    r = grads[selected[0]]
    for _ in range(em_steps):
        w = [1 / (1 + torch.exp(-5 * (loss[j] + u(r) @ grads[j]))) for j in draws]
        r = sum(w[j] * grads[j] for j in draws) / sum(w)
    cosine = [[grads[j] @ grads[k] / grads[j].norm() / grads[k].norm() for k in selected] for j in draws]
    share = [[c.exp() / sum(other.exp() for other in row) for c in row] for row in cosine]
    grafted = [
        sum(share[j][k] * w[j] * grads[j] for j in draws) / sum(share[j][k] * w[j] for j in draws) for k in range(count)
    ]
    return selected, torch.stack(grafted)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("em_steps", [1, 3])
def test_selection_and_weights_of_both_norms_and_more_rounds(norm: str, em_steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    loss, grads = torch.randn(5, 3, generator=generator), torch.randn(5, 3, 7, generator=generator)
    selected = select_draws(loss, grads, count=2, eps=0.3, norm=norm)
    grafted = graft(loss, grads, selected, em_steps=em_steps, norm=norm)
    for image in range(3):
        twin = slow_twin(loss[:, image], grads[:, image], 2, 0.3, norm, em_steps)
        assert selected[:, image].tolist() == twin[0]
        torch.testing.assert_close(grafted[:, image], twin[1], rtol=1e-4, atol=1e-6)


class Purified(nn.Module):
    """A classifier behind a purifier that scales by a random factor, both at hand."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier, self.noisy = classifier, NoisyModel(nn.Identity(), 0.1)
        self.eval()

    def purifier(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        return 0.9 * self.noisy.with_noise(seed=seed, index=index)(x)

    def with_noise(self, *, seed: int, index: Tensor):
        return lambda x: self.classifier(self.purifier(x, seed=seed, index=index))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(0.9 * self.noisy(x))


def test_it_breaks_a_random_purifier_as_far_as_the_mean_gradient_does() -> None:
    model, x = tiny_conv(), images(24, (3, 8, 8))
    y, eps = model(0.9 * x).argmax(1), 0.02
    attack = DiffHammer(eps=eps, steps=10, restarts=2, draws=6, eot=2)
    for defence in (Purified(model), NoisyModel(model, 0.05)):
        pgd = PGD(eps=eps, step_size=eps / 4, steps=20, eot=6, loss="cw", select="best")
        accuracy = {
            name: evaluate(defence, x, y, {name: one}, seed=0, passes=10, probes=0).robust_accuracy
            for name, one in {"hammer": attack, "pgd": pgd}.items()
        }
        clean = evaluate(defence, x, y, {"none": PGD(eps=0.0)}, seed=0, passes=10, probes=0).robust_accuracy
        assert accuracy["hammer"] < clean - 0.3
        assert accuracy["hammer"] < accuracy["pgd"] + 0.05  # 240 passes: standard error 0.03


def test_it_stays_in_its_ball_and_does_not_depend_on_the_batch() -> None:
    model, x = tiny_conv(), images(5, (3, 8, 8))
    y, index = model(x).argmax(1), torch.tensor([4, 9, 2, 30, 7])
    for norm, eps in (("linf", 0.05), ("l2", 0.4)):
        attack = DiffHammer(eps=eps, norm=norm, steps=4, restarts=2, draws=3)
        whole = attack(Purified(model), x, y, seed=1, index=index)
        parts = [attack(Purified(model), x[i : i + 2], y[i : i + 2], seed=1, index=index[i : i + 2]) for i in (0, 2, 4)]
        torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=0)
        length = (whole - x).flatten(1).norm(p=float("inf") if norm == "linf" else 2, dim=1)
        assert (length <= eps * (1 + 1e-5)).all()
        assert length.max() > 0.9 * eps


def test_it_begins_at_the_worst_candidate_so_far() -> None:
    model, x = linear((1, 4, 4), 3), images(2)
    asked = []

    class Seeing(NoisyModel):
        def with_noise(self, *, seed, index):
            inner = super().with_noise(seed=seed, index=index)
            return lambda z: (asked.append(z.detach().clone()), inner(z))[1]

    begin = (x + 0.03).clamp(0, 1)
    with starting_at(begin):
        DiffHammer(eps=0.1, steps=1, restarts=1, draws=1, start="worst")(
            Seeing(model, 0.1), x, model(x).argmax(1), seed=0
        )
    torch.testing.assert_close(asked[0], begin)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="eot <= draws"):
        DiffHammer(draws=2, eot=3)
    with pytest.raises(ValueError, match="norm must be one of linf, l2"):
        DiffHammer(norm="l1")
