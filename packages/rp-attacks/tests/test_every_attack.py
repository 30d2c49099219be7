"""What holds for every attack alike."""

import pytest
import torch
from rp_attacks import (
    APGD,
    FAB,
    PGD,
    SPSA,
    AutoAttack,
    CarliniWagner,
    DeepFool,
    LibrarySquare,
    RayS,
    Saved,
    Square,
    Transfer,
)
from rp_attacks.alma import ALMA
from rp_attacks.ddn import DDN
from rp_attacks.fmn import FMN
from rp_attacks.norms import size
from rp_attacks.presets import OnMeanLogits
from rp_attacks.sigma_zero import SigmaZero
from rp_attacks.super_deepfool import SuperDeepFool

from .models import NoisyModel, images, tiny_conv

KINDS = {
    "pgd": lambda eps: PGD(eps=eps, steps=2),
    "apgd": lambda eps: APGD(eps=eps, steps=3),
    "apgd-l1": lambda eps: APGD(eps=eps, steps=3, norm="l1"),
    "apgd-targeted": lambda eps: APGD(eps=eps, steps=3, loss="targeted-dlr", targets=2),
    "autoattack": lambda eps: AutoAttack(eps=eps, attacks=("apgd-ce",)),
    "fab": lambda eps: FAB(eps=eps, steps=2, targets=2),
    "library-square": lambda eps: LibrarySquare(eps=eps, queries=5),
    "square": lambda eps: Square(eps=eps, queries=5),
    "rays": lambda eps: RayS(eps=eps, queries=20),
    "spsa": lambda eps: SPSA(eps=eps, steps=2, samples=2),
    "cw": lambda eps: CarliniWagner(eps=eps, search_steps=2, steps=5),
    "deepfool": lambda eps: DeepFool(eps=eps, steps=3),
    "fmn": lambda eps: FMN(eps=eps, steps=3),
    "fmn-l1": lambda eps: FMN(eps=eps, steps=3, norm="l1"),
    "ddn": lambda eps: DDN(eps=eps, steps=3),
    "alma": lambda eps: ALMA(eps=eps, steps=3),
    "super-deepfool": lambda eps: SuperDeepFool(eps=eps, steps=2, deepfool_steps=3),
    "sigma-zero": lambda eps: SigmaZero(eps=eps, steps=3),
    "transfer": lambda eps: Transfer(PGD(eps=eps, steps=2), tiny_conv()),
    "mean": lambda eps: OnMeanLogits(PGD(eps=eps, steps=2), passes=2),
}


def problem():
    model, x = tiny_conv(), images(3, (3, 8, 8))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("kind", KINDS)
def test_radius_zero_gives_the_clean_images(kind: str) -> None:
    model, x, y = problem()
    assert torch.equal(KINDS[kind](0.0)(model, x, y, seed=0), x)


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_in_the_ball_repeat_and_leave_the_rest_alone(kind: str) -> None:
    model, x, y = problem()
    attack, before, state = KINDS[kind](0.02), x.clone(), torch.get_rng_state()
    first, second = attack(model, x, y, seed=1), attack(model, x, y, seed=1)
    assert torch.equal(first, second)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == x.shape
    assert first.dtype == x.dtype
    assert not first.requires_grad
    assert (size(first - x, attack.norm) <= 0.02 * (1 + 1e-4) + 1e-6).all()
    assert first.min() >= 0
    assert first.max() <= 1
    assert not model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_random_defences_are_attacked_too(kind: str) -> None:
    model, x, y = problem()
    x_adv = KINDS[kind](0.02)(NoisyModel(model, 0.05), x, y, seed=0)
    assert torch.isfinite(x_adv).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("autoattack", "fab", "library-square")])
def test_an_image_is_attacked_alike_in_every_batch_also_with_noise(kind: str) -> None:
    model, x, y = problem()
    noisy, index, attack = NoisyModel(model, 0.05), torch.tensor([8, 2, 5]), KINDS[kind](0.02)
    together = attack(noisy, x, y, seed=4, index=index)
    alone = torch.cat([attack(noisy, x[[r]], y[[r]], seed=4, index=index[[r]]) for r in range(3)])
    # kernels round differently at other batch sizes, and a sign can flip where a gradient is nearly zero
    assert ((together - alone).abs() > 1e-4).float().mean() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_labels_and_images_are_refused(kind: str) -> None:
    model, x, y = problem()
    attack = KINDS[kind](0.02)
    with pytest.raises(ValueError, match="is out of range: the model has 10 classes"):
        attack(model, x, y + 10, seed=0)
    with pytest.raises(ValueError, match="divide bytes by 255"):
        attack(model, 255 * x, y, seed=0)

    def broken(z):
        return model(z) * float("nan")

    attack = Transfer(attack.attack, broken) if kind == "transfer" else attack
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        attack(broken, x, y, seed=0)
    if kind not in ("pgd", "transfer", "mean"):
        with pytest.raises(TypeError, match="y must be int64 labels"):
            attack(model, x, model(x).softmax(1).detach(), seed=0)


def test_saved_images_are_found_by_index() -> None:
    _, x, y = problem()
    saved = Saved(images=x.flip(0), index=torch.tensor([7, 8, 9]), eps=1.0)
    assert torch.equal(saved(None, x[:2], y[:2], seed=0, index=torch.tensor([9, 7])), x[[0, 2]])
    with pytest.raises(ValueError, match=r"no image of index \[3\]"):
        saved(None, x[:1], y[:1], seed=0, index=torch.tensor([3]))
