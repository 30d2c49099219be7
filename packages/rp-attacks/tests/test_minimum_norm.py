import numpy as np
import pytest
import torch
from rp_attacks import CarliniWagner, DeepFool, RayS
from rp_attacks.losses import cw_margin
from rp_attacks.norms import size

from .models import NoisyModel, images, linear, load_golden, tiny_conv


def golden_problem():
    golden = load_golden("attacks_tinyconv")
    return golden, tiny_conv(), torch.from_numpy(golden["in_x"]), torch.from_numpy(golden["in_y"])


def boundary_distances(model, x, y, dual: int) -> torch.Tensor:
    """Exact distance to the nearest boundary of a linear model, the gradient measured in the dual norm."""
    weight, logits = model[1].weight.detach(), model(x).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = torch.linalg.vector_norm(weight[y][:, None] - weight[None], ord=dual, dim=2)
    return torch.where(lengths > 0, gaps / lengths.clamp_min(1e-9), torch.inf).min(1).values


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_makes_foolbox_images(norm: str) -> None:
    golden, model, x, y = golden_problem()
    x_adv = DeepFool(norm=norm, eps=1.0).search(model, x, y, seed=0)
    np.testing.assert_allclose(x_adv, golden[f"out_fb_{norm}_deepfool"], atol=1e-5)


def test_carlini_wagner_finds_foolbox_distances() -> None:
    golden, model, x, y = golden_problem()
    attack = CarliniWagner(search_steps=3, steps=100, initial_c=0.1)
    x_adv, distance = attack.search(model, x, y, seed=0)
    reference = size(torch.from_numpy(golden["out_fb_l2_cw"]) - x, "l2")
    assert (cw_margin(model(x_adv), y) > 0).all()
    torch.testing.assert_close(distance, reference, rtol=2e-2, atol=1e-3)  # Adam amplifies rounding


@pytest.mark.parametrize("queries", [50, 300])
def test_rays_walks_as_its_reference_does(queries: int) -> None:
    golden, model, x, y = golden_problem()
    found = RayS(eps=0.04, queries=queries).search(model, x, y, seed=0)
    name = f"out_rays_q{queries}"
    np.testing.assert_allclose(found.distance, golden[f"{name}_dist"], atol=1e-5)
    np.testing.assert_allclose(found.radius, golden[f"{name}_d"], atol=1e-5)
    np.testing.assert_array_equal(found.queries, golden[f"{name}_queries"])
    np.testing.assert_allclose(found.images, golden[f"{name}_x"], atol=1e-5)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_deepfool_finds_the_exact_distance_of_a_linear_model(norm: str, dual: int) -> None:
    model, x = linear((1, 4, 4), 4), images(6)
    y = model(x).argmax(1)
    x_adv = DeepFool(norm=norm, eps=1.0, overshoot=0.0).search(model, x, y, seed=0)
    torch.testing.assert_close(size(x_adv - x, norm), boundary_distances(model, x, y, dual), rtol=1e-2, atol=2e-4)


def test_carlini_wagner_finds_the_exact_distance_of_a_linear_model() -> None:
    model, x = linear((1, 4, 4), 4), images(6)
    y = model(x).argmax(1)
    _, distance = CarliniWagner(search_steps=6, steps=150, initial_c=0.01).search(model, x, y, seed=0)
    exact = boundary_distances(model, x, y, 2)
    assert (distance >= exact - 1e-5).all()
    torch.testing.assert_close(distance, exact, rtol=0.05, atol=2e-3)


def test_rays_finds_the_exact_distance_of_a_linear_model() -> None:
    model, x = linear((1, 4, 4), 2), images(4)
    y = model(x).argmax(1)
    found = RayS(queries=3000, tolerance=1e-4).search(model, x, y, seed=0)
    torch.testing.assert_close(found.distance, boundary_distances(model, x, y, 1), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("attack", [DeepFool(eps=0.01), CarliniWagner(eps=0.01, steps=20), RayS(eps=0.001, queries=60)])
def test_called_as_attacks_they_stay_in_their_ball(attack) -> None:
    _, model, x, y = golden_problem()
    x_adv = attack(model, x, y, seed=0)
    assert (size(x_adv - x, attack.norm) <= attack.eps + 1e-6).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_more_passes_and_confidence_hold_up_on_a_random_defence() -> None:
    _, model, x, y = golden_problem()
    noisy = NoisyModel(model, 0.05)

    def wrong(x_adv) -> float:
        passes = [noisy.with_noise(seed=s, index=torch.arange(8))(x_adv).argmax(1) != y for s in range(50)]
        return torch.stack(passes).float().mean().item()

    plain, careful = (
        CarliniWagner(eps=5.0, search_steps=3, steps=40, confidence=kappa, eot=passes).search(noisy, x, y, seed=0)[0]
        for kappa, passes in ((0.0, 1), (0.3, 5))
    )
    assert wrong(careful) > wrong(plain)


def test_l1_deepfool_is_refused() -> None:
    with pytest.raises(ValueError, match="for L1 use FAB"):
        DeepFool(norm="l1")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of foolbox's imports
@pytest.mark.parametrize("seed", [1, 2])
def test_installed_foolbox_finds_the_same_on_another_network(seed: int) -> None:
    import foolbox

    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 20), torch.nn.Tanh(), torch.nn.Linear(20, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    x = images(5, (3, 4, 4), seed=seed)
    y = model(x).argmax(1)
    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    for norm, reference in (
        ("l2", foolbox.attacks.L2DeepFoolAttack()),
        ("linf", foolbox.attacks.LinfDeepFoolAttack()),
    ):
        theirs, _, _ = reference(wrapped, x, y, epsilons=None)
        torch.testing.assert_close(DeepFool(norm=norm).search(model, x, y, seed=0), theirs, atol=1e-5, rtol=0)
    attack = foolbox.attacks.L2CarliniWagnerAttack(2, 60, initial_const=1.0, abort_early=False)
    theirs, _, found = attack(wrapped, x, y, epsilons=None)
    _, distance = CarliniWagner(search_steps=2, steps=60, initial_c=1.0).search(model, x, y, seed=0)
    assert torch.equal(found, distance.isfinite())
    torch.testing.assert_close(distance[found], size(theirs - x, "l2")[found], rtol=2e-2, atol=1e-3)
