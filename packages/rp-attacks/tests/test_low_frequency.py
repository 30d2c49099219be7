"""The low-frequency attack: its filters against a loop over pixels, its ball, and a perceptual limit."""

import torch
from rp_attacks.forecast import passes_of
from rp_attacks.low_frequency import LowFrequency, _first_quarter, _mixed, filtered
from rp_attacks.watch import counting

from .models import NoisyModel, images, tiny_conv


def test_a_filter_is_a_mean_over_the_pixels_around_that_edges_stop() -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    kernel = (5, 3)
    quarter = torch.randn(2, 3, 2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    found = filtered(z, quarter, _mixed(x, kernel), kernel)
    for b, i, j in ((0, 0, 0), (1, 2, 3), (0, 4, 5), (1, 1, 0)):
        weights, values = [], []
        total = sum(quarter[b, abs(di), abs(dj), i, j].exp() for di in range(-2, 3) for dj in (-1, 0, 1))
        for di in range(-2, 3):
            for dj in (-1, 0, 1):
                p, q = min(max(i + di, 0), 4), min(max(j + dj, 0), 5)
                edge = torch.exp(-((x[b, :, p, q] - x[b, :, i, j]).abs().sum() ** 2) / (2 * 0.05**2))
                weights.append(quarter[b, abs(di), abs(dj), i, j].exp() / total * edge)
                values.append(z[b, :, p, q])
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        torch.testing.assert_close(found[b, :, i, j], mean)
    (slope,) = torch.autograd.grad(found[0].sum(), quarter)
    assert slope[0].abs().sum() > 0
    assert slope[1].abs().sum() == 0


def test_filters_begin_as_nearly_nothing() -> None:
    x = images(2, (3, 8, 8))
    for kernel in ((3, 3), (17, 33)):
        made = filtered(x, _first_quarter(x, kernel), _mixed(x, kernel), kernel)
        torch.testing.assert_close(made, x, atol=1e-4, rtol=0)


def test_it_breaks_images_in_its_ball_alike_in_any_batch() -> None:
    model, x = tiny_conv(), images(12, (3, 8, 8))
    y, index = model(x).argmax(1), torch.arange(12)
    attack = LowFrequency(eps=0.15, steps=40, step_size=0.05, kernels=((5, 5), (3, 3)))
    with counting(index) as passes:
        made = attack(model, x, y, seed=0, index=index)
    assert (made - x).abs().max() <= 0.15 + 1e-6
    assert made.min() >= 0
    assert made.max() <= 1
    broken = model(made).argmax(1) != y
    assert broken.float().mean() > 0.6
    assert passes.forward.max() <= passes_of(attack).forward
    noisy = NoisyModel(model, 0.02)
    short = LowFrequency(eps=0.15, steps=3, eot=2, kernels=((3, 3),))
    together = short(noisy, x[:4], y[:4], seed=3, index=index[:4])
    alone = torch.cat([short(noisy, x[[r]], y[[r]], seed=3, index=index[[r]]) for r in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_an_image_beyond_the_perceptual_limit_is_not_given_back() -> None:
    model, x = tiny_conv(), images(8, (3, 8, 8))
    y = model(x).argmax(1)

    def distance(made: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return (made - clean).square().mean(dim=(1, 2, 3)).sqrt()

    free = LowFrequency(eps=1.0, steps=30, step_size=0.1, kernels=((3, 3),))
    far = distance(free(model, x, y, seed=0), x)
    bound = LowFrequency(
        eps=1.0, steps=30, step_size=0.1, kernels=((3, 3),), distance=distance, limit=float(far.median()) / 2
    )  # fmt: skip
    near = distance(bound(model, x, y, seed=0), x)
    assert (near < bound.limit).all()
    assert near.max() > 0
