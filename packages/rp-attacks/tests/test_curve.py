import pytest
import torch
from rp_attacks import PGD, accuracy_curve

from .models import images, linear


def test_the_curve_of_a_linear_model_is_the_exact_one() -> None:
    model, x = linear((1, 4, 4), 2), images(50)
    y = model(x).argmax(1)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    distance = (x.flatten(1) @ weight).abs() / weight.abs().sum()  # Linf distance to the boundary
    radii = [0.0, 0.02, 0.05, 0.1, 0.2]
    points = accuracy_curve(model, x, y, PGD(eps=0.1, step_size=0.02, steps=20), radii, seed=0)
    assert [point.eps for point in points] == radii
    exact = [(distance > eps).float().mean().item() for eps in radii]
    assert [point.accuracy.estimate for point in points] == pytest.approx(exact)
    assert points[0].accuracy.estimate == 1


def test_a_curve_needs_a_radius_to_scale_from() -> None:
    with pytest.raises(ValueError, match="eps above 0"):
        accuracy_curve(linear((1, 4, 4), 2), images(1), torch.tensor([0]), PGD(eps=0.0), [0.1], seed=0)
