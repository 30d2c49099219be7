import pytest
import torch
from rp_models import noise
from rp_models.diffusion.maskdit_loss import masked_denoising_loss
from rp_models.mask import random_mask
from rp_purify import MaskDiTPure
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .models import tiny_images, tiny_maskdit

INDEX = torch.tensor([5, 0, 2**33 + 1])


def slow_purify(x: Tensor, *, steps: int, step_size: float, tanh: bool, seed: int) -> Tensor:
    """Fresh masks and noise at sigma 0.3 in each step, one stored graph, no ball."""
    model = tiny_maskdit().to(x.dtype)
    for s in range(1, steps + 1):
        values = noise.uniform((16,), seed=seed, purpose=f"mask {s}", index=INDEX, dtype=x.dtype)
        unit = noise.normal((1, 8, 8), seed=seed, purpose=f"noise {s}", index=INDEX, dtype=x.dtype)
        sigma = torch.full((3,), 0.3, dtype=x.dtype)
        with sdpa_kernel(SDPBackend.MATH):
            loss = masked_denoising_loss(
                model, 2 * x - 1, sigma=sigma, noise=unit, mask=random_mask(values, 0.5), mae_weight=0.1
            )
            (g,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        direction = g.sign()
        if tanh:
            smooth = torch.stack([torch.tanh(row / row.detach().abs().mean()) for row in g])
            direction = direction.detach() + smooth - smooth.detach()
        x = x - step_size * direction
        x = torch.where(x < 0, 0.0, torch.where(x > 1, 1.0, x))
    return x


@pytest.mark.parametrize("grad", ["exact", "ste-tanh"])
def test_values_and_gradients_are_those_of_sign_descent_written_out(grad: str) -> None:
    x = tiny_images().double().requires_grad_()
    purifier = MaskDiTPure(tiny_maskdit().double(), steps=3, step_size=0.02, eta=None, sigma=0.3, grad=grad)
    slow = slow_purify(x, steps=3, step_size=0.02, tanh=grad == "ste-tanh", seed=3)
    purified = purifier(x, seed=3, index=INDEX)
    torch.testing.assert_close(purified, slow, atol=1e-12, rtol=0)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    (mine,), (expected,) = (torch.autograd.grad(image, x, upstream) for image in (purified, slow))
    torch.testing.assert_close(mine, expected, atol=1e-10, rtol=1e-9)  # float64, operations in another order
    assert (grad == "exact") or not torch.allclose(mine, upstream, atol=1e-2)


def test_annealed_levels_fall_geometrically_and_grid_levels_are_drawn_per_image() -> None:
    model, index = tiny_maskdit(), torch.arange(200)
    annealed = MaskDiTPure(model, steps=3, sigma=(0.8, 0.2), schedule="annealed")
    levels = torch.stack([annealed.levels(step, seed=0, index=index[:1]) for step in (1, 2, 3)])
    torch.testing.assert_close(levels[:, 0], torch.tensor([0.8, 0.4, 0.2], dtype=torch.float64))
    grid = MaskDiTPure(model, sigma=(0.1, 0.3, 0.5), schedule="grid").levels(1, seed=0, index=index)
    counts = [(grid == value).sum().item() for value in (0.1, 0.3, 0.5)]
    assert sum(counts) == 200
    assert min(counts) > 40  # 67 expected, standard deviation 6.7


def test_everything_fixed_repeats_the_same_loss_in_each_step_and_call() -> None:
    x, index = tiny_images(), torch.arange(3)
    fixed = MaskDiTPure(tiny_maskdit(), steps=2, masks="fixed", noise="fixed")
    fresh = MaskDiTPure(tiny_maskdit(), steps=2, masks="fixed", noise="fresh")
    assert torch.equal(*(fixed.loss(x, seed=0, index=index, step=step) for step in (1, 2)))
    assert not torch.equal(*(fresh.loss(x, seed=0, index=index, step=step) for step in (1, 2)))
    assert torch.equal(fixed(x), fixed(x))
    assert not torch.equal(fresh(x), fresh(x))


def test_it_descends_without_masks_too_and_stays_in_the_ball() -> None:
    x = tiny_images()
    purifier = MaskDiTPure(tiny_maskdit(), steps=4, mask_rate=0.0, eta=0.01, masks="fixed", noise="fixed")
    purified = purifier(x)
    assert (purified - x).abs().max() <= 0.01 + 1e-6
    before, after = (purifier.reconstruction_loss(i, seed=0, index=torch.arange(3)) for i in (x, purified))
    assert (after < before).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "positive"),
        ({"sigma": (0.1, 0.2)}, "'fixed' takes one noise level"),
        ({"schedule": "grid"}, "the others several"),
        ({"schedule": "linear"}, "fixed, grid, annealed"),
        ({"noise": "new"}, "'fresh' in each step or 'fixed'"),
        ({"mask_rate": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskDiTPure(tiny_maskdit(), **settings)
