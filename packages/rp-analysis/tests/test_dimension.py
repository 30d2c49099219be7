"""Classification and robust-aware dimension against golden files and a projection written out."""

import numpy as np
import pytest
import torch
from rp_analysis import classification_dimension
from rp_analysis.dimension import component_accuracy, principal_components
from rp_testing import GOLDEN_FILES
from torch import Tensor

GOLDEN = dict(np.load(GOLDEN_FILES / "analysis_class_dim_c10.npz"))
CLEAN, ADVERSARIAL = (torch.from_numpy(GOLDEN[f"in_features_{kind}"]) for kind in ("clean", "adv"))
LABELS = torch.from_numpy(GOLDEN["in_labels"])
WEIGHT, BIAS = (torch.from_numpy(GOLDEN[f"in_head_{part}"]) for part in ("weight", "bias"))
VARIANTS = ("recentred", "uncentred", "centred")


def projected_accuracy(x: Tensor, k: int, variant: str) -> float:
    """One K by an explicit projection of the features."""
    x, mean = x.double(), CLEAN.double().mean(dim=0)
    vectors = torch.linalg.eigh(torch.cov(CLEAN.double().T)).eigenvectors.flip(1)[:, :k]
    moved = x if variant == "uncentred" else x - mean
    projected = moved @ vectors @ vectors.T + (mean if variant == "recentred" else 0)
    logits = projected @ WEIGHT.double().T + BIAS.double()
    return float((logits.argmax(dim=1) == LABELS).double().mean())


def golden_dimension(value: np.ndarray) -> int | None:
    return None if value == -1 else int(value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_curves_and_dimensions_are_those_of_the_golden_file(variant: str) -> None:
    found = classification_dimension(CLEAN, LABELS, WEIGHT, BIAS, adversarial=ADVERSARIAL, variant=variant)
    tolerance = 2 / len(CLEAN)  # two samples at a near-tie of logits
    for curve, kind in ((found.clean, "clean"), (found.adversarial, "adv")):
        expected = torch.from_numpy(GOLDEN[f"out_{kind}_acc_{variant}"])
        torch.testing.assert_close(curve, expected, rtol=0, atol=tolerance)
    assert found.cls95 == golden_dimension(GOLDEN[f"out_cls95_{variant}"])
    assert found.cls99 == golden_dimension(GOLDEN[f"out_cls99_{variant}"])
    assert found.robust == golden_dimension(GOLDEN[f"out_robust_dim_{variant}"])
    assert found.full_clean == float(GOLDEN["out_base_clean_acc"])
    assert found.full_adversarial == pytest.approx(float(GOLDEN["out_base_adv_acc"]))
    low, high = found.robust_range
    assert low <= found.robust <= high


def test_the_uncentred_curve_is_that_of_the_published_code() -> None:
    found = classification_dimension(CLEAN, LABELS, WEIGHT, BIAS, variant="uncentred")
    expected = torch.from_numpy(GOLDEN["out_reference_clean_acc_uncentred"])
    torch.testing.assert_close(found.clean[: len(expected)], expected, rtol=0, atol=2 / len(CLEAN))
    assert (found.cls95, found.cls99) == (GOLDEN["out_reference_cls95"], GOLDEN["out_reference_cls99"])
    assert found.adversarial is found.robust is found.robust_range is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_point_of_the_curve_equals_an_explicit_projection(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rp_analysis.dimension.row_block", lambda width: 77)
    curve = component_accuracy(ADVERSARIAL, LABELS, WEIGHT, BIAS, principal_components(CLEAN), variant=variant)
    for k in (0, 1, 7, 30, 64):
        assert float(curve[k]) == pytest.approx(projected_accuracy(ADVERSARIAL, k, variant), abs=1 / len(CLEAN))


def test_principal_components_are_those_of_the_covariance() -> None:
    components = principal_components(CLEAN)
    np.testing.assert_allclose(components.mean, GOLDEN["out_mean"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(components.variance, GOLDEN["out_eigenvalues"], rtol=1e-9)
    gram = components.directions.T @ components.directions
    torch.testing.assert_close(gram, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-12)


def test_fewer_samples_than_features_give_the_same_subspace() -> None:
    x = CLEAN[:40].double()
    components = principal_components(x)
    covariance = torch.cov(x.T, correction=0)
    rebuilt = components.directions * components.variance @ components.directions.T
    torch.testing.assert_close(rebuilt, covariance, rtol=0, atol=1e-10)
    assert components.directions.shape == (64, 64)
    assert components.variance[40:].abs().max() == 0


def test_all_components_recover_the_full_accuracy_unless_the_mean_is_lost() -> None:
    for variant in ("recentred", "uncentred"):
        found = classification_dimension(CLEAN, LABELS, WEIGHT, BIAS, adversarial=ADVERSARIAL, variant=variant)
        assert float(found.clean[-1]) == found.full_clean
        assert float(found.adversarial[-1]) == pytest.approx(found.full_adversarial)
    assert classification_dimension(CLEAN, LABELS, WEIGHT, BIAS, variant="centred").clean[-1] < 1


def test_rotating_features_and_head_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    plain = classification_dimension(CLEAN, LABELS, WEIGHT, BIAS, adversarial=ADVERSARIAL)
    turned = classification_dimension(
        CLEAN.double() @ q, LABELS, WEIGHT.double() @ q, BIAS, adversarial=ADVERSARIAL.double() @ q
    )
    assert (plain.cls95, plain.cls99, plain.robust) == (turned.cls95, turned.cls99, turned.robust)


def test_two_samples_are_enough_for_a_dimension() -> None:
    found = classification_dimension(CLEAN[:2], LABELS[:2], WEIGHT, BIAS)
    assert found.clean.shape == (65,)
    assert float(found.clean[-1]) == found.full_clean
    with pytest.raises(ValueError, match="at least 2"):
        classification_dimension(CLEAN[:1], LABELS[:1], WEIGHT, BIAS)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="labels must be int64"):
        component_accuracy(CLEAN, LABELS[:5], WEIGHT, BIAS, principal_components(CLEAN))
    with pytest.raises(ValueError, match="labels must be int64"):
        classification_dimension(CLEAN, LABELS, WEIGHT, BIAS, adversarial=ADVERSARIAL[:5])
    with pytest.raises(ValueError, match="pass the features that enter the classification head"):
        classification_dimension(CLEAN[:, :5], LABELS, WEIGHT)
    with pytest.raises(ValueError, match="labels must be int64"):
        classification_dimension(CLEAN, LABELS[:5], WEIGHT)
    with pytest.raises(ValueError, match="labels must lie in"):
        classification_dimension(CLEAN, LABELS + 5, WEIGHT)
    with pytest.raises(ValueError, match="bias must be of shape"):
        classification_dimension(CLEAN, LABELS, WEIGHT, BIAS[:3])
    with pytest.raises(ValueError, match="variant must be one of"):
        classification_dimension(CLEAN, LABELS, WEIGHT, BIAS, variant="whitened")
