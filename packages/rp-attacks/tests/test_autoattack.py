import random
import sys

import numpy as np
import pytest
import torch
from rp_attacks import FAB, AutoAttack, FixedNoise, LibrarySquare
from rp_attacks.losses import cw_margin
from rp_attacks.norms import NORMS, size

from .models import NoisyModel, images, linear, load_golden, tiny_conv


def problem(count: int = 6):
    model, x = tiny_conv(), images(count, (3, 8, 8))
    return model, x, model(x).argmax(1)


def test_apgd_of_the_library_breaks_what_the_golden_file_says() -> None:
    golden = load_golden("attacks_tinyconv")
    x, y = torch.from_numpy(golden["in_x"]), torch.from_numpy(golden["in_y"])
    model = tiny_conv()
    x_adv = AutoAttack(eps=0.04, attacks=("apgd-ce",))(model, x, y, seed=0)
    assert ((model(x_adv).argmax(1) == y).sum()).item() == golden["out_aa_apgd_ce_Linf_acc"].sum()


def test_nothing_that_the_library_touches_is_left_changed() -> None:
    model, x, y = problem()
    before = x.clone(), y.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    def tracer(*_):
        return None

    old = sys.gettrace()
    sys.settrace(tracer)
    try:
        AutoAttack(eps=0.001, attacks=("apgd-ce", "fab"))(model, x[:2], y[:2], seed=0)
        kept = sys.gettrace()
    finally:
        sys.settrace(old)
    assert kept is tracer
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_model_that_keeps_its_output_is_not_corrupted() -> None:
    model, x, y = problem(2)
    outputs = []

    def caching(z):
        outputs.append(model(z))
        return outputs[-1]

    LibrarySquare(eps=0.001, queries=3)(caching, x, y, seed=0)
    assert all(torch.isfinite(logits).all() for logits in outputs)


def test_the_library_cannot_reset_the_noise_of_a_random_defence() -> None:
    model, x, y = problem(2)
    seen = []

    def noisy(z):
        noise = torch.randn_like(z)
        seen.append(noise.flatten()[0].item())
        return model(z + 0.1 * noise)

    # the library seeds the global generator again for every batch, here of one image
    AutoAttack(eps=0.001, attacks=("apgd-ce",), batch_size=1)(noisy, x, y, seed=0)
    assert len(set(seen)) == len(seen) > 200


@pytest.mark.parametrize("norm", NORMS)
def test_results_lie_in_the_ball_and_repeat(norm: str) -> None:
    model, x, y = problem(3)
    attack = AutoAttack(eps={"linf": 0.02, "l2": 0.2, "l1": 1.0}[norm], norm=norm, attacks=("apgd-ce",))
    first, second = (attack(model, x, y, seed=3) for _ in range(2))
    assert torch.equal(first, second)
    assert (size(first - x, norm) <= attack.eps + 1e-5).all()
    assert not torch.equal(first, x)


def test_batches_of_one_image_work_for_half_precision_models_too() -> None:
    model, x, y = problem(1)
    model = model.bfloat16()
    x_adv = AutoAttack(eps=0.05, attacks=("apgd-ce",))(lambda z: model(z.bfloat16()), x, y, seed=0)
    assert x_adv.dtype == x.dtype


def test_fab_finds_the_distance_of_a_linear_boundary() -> None:
    model, x = linear((1, 4, 4), 3), images(4)
    y = model(x).argmax(1)
    weight, logits = model[1].weight.detach(), model(x).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = (weight[y][:, None] - weight[None]).norm(dim=2)
    distance = torch.where(lengths > 0, gaps / lengths.clamp_min(1e-9), torch.inf).min(1).values
    x_adv = FAB(norm="l2", eps=2.0, targets=2)(model, x, y, seed=0)
    assert (cw_margin(model(x_adv), y) >= 0).all()
    # FAB's final point overshoots the boundary by its eta and the library's own 1%
    torch.testing.assert_close(size(x_adv - x, "l2"), distance.detach(), rtol=0.06, atol=1e-4)


def test_defences_of_few_classes_are_told_which_parts_to_run() -> None:
    model, x = linear((1, 4, 4), 3), images(2)
    y = model(x).argmax(1)
    with pytest.raises(ValueError, match="apgd-t needs at least 4 classes, the model has 3; pass attacks="):
        AutoAttack(eps=0.1)(model, x, y, seed=0)
    x_adv = AutoAttack(eps=0.3, attacks=("apgd-ce", "fab-t"))(model, x, y, seed=0)
    assert (model(x_adv).argmax(1) != y).any()


def test_a_random_defence_that_offers_noise_gets_other_noise_at_every_call() -> None:
    model, x, y = problem(2)
    seeds = []

    class Watched(NoisyModel):
        def with_noise(self, *, seed, index):
            seeds.append(seed)
            return super().with_noise(seed=seed, index=index)

    AutoAttack(eps=0.01, attacks=("apgd-ce",))(Watched(model, 0.1), x, y, seed=0)
    assert len(set(seeds)) == len(seeds) > 100


@pytest.mark.parametrize("attack", [AutoAttack(eps=0.01, attacks=("apgd-ce",)), FAB(eps=0.01, steps=3, targets=2)])
def test_known_noise_stays_with_its_image_inside_the_library(attack) -> None:
    model, x, y = problem(3)
    defence, index = FixedNoise(NoisyModel(model, 0.1), seed=5), torch.tensor([7, 1, 4])
    together = attack(defence, x, y, seed=0, index=index)
    alone = [attack(defence, x[[r]], y[[r]], seed=0, index=index[[r]]) for r in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_bad_options_are_refused() -> None:
    for options, message in [
        ({"version": "custom"}, "version must be one of standard, plus, rand"),
        ({"attacks": ("pgd",)}, "attacks must be one of"),
        ({"eps": 8.0}, "did you mean 8/255"),
    ]:
        with pytest.raises(ValueError, match=message):
            AutoAttack(**options)
