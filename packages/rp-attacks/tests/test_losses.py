import pytest
import torch
import torch.nn.functional as F
from rp_attacks.losses import cross_entropy, cw_margin, dlr, kl_divergence, misclassified, targeted_dlr

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 5.0, 4.0]], dtype=torch.float64)
Y = torch.tensor([0, 1])


def test_margin_is_positive_exactly_where_the_image_is_misclassified() -> None:
    assert cw_margin(LOGITS, Y).tolist() == [-2.0, 3.0]


def test_dlr_divides_the_margin_by_the_gap_to_the_third_logit() -> None:
    torch.testing.assert_close(dlr(LOGITS, Y), torch.tensor([-2 / 3, 3 / 3], dtype=torch.float64))
    torch.testing.assert_close(dlr(7 * LOGITS - 2, Y), dlr(LOGITS, Y))


def test_targeted_dlr_by_hand() -> None:
    expected = torch.tensor([-(3 - 0) / (3 - (0 - 1) / 2), -(2 - 5) / (5 - (2 + 0) / 2)], dtype=torch.float64)
    torch.testing.assert_close(targeted_dlr(LOGITS, Y, torch.tensor([2, 2])), expected)


def test_kl_and_its_gradient_equal_the_sum_written_out() -> None:
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.5, 0.0]], dtype=torch.float64)
    logits = LOGITS.clone().requires_grad_()
    q = logits.softmax(1)
    twin = torch.where(p > 0, p * (p.clamp_min(1e-300).log() - q.log()), 0).sum(1)
    torch.testing.assert_close(kl_divergence(p, logits), twin)
    (ours,) = torch.autograd.grad(kl_divergence(p, logits).sum(), logits)
    torch.testing.assert_close(ours, (q - p).detach())


def test_cross_entropy_takes_labels_and_probabilities() -> None:
    hard = F.one_hot(Y, 4).double()
    torch.testing.assert_close(cross_entropy(LOGITS, Y), cross_entropy(LOGITS, hard))


@pytest.mark.parametrize("loss", [cross_entropy, cw_margin, dlr])
def test_gradients_are_those_of_finite_differences(loss) -> None:
    assert torch.autograd.gradcheck(lambda z: loss(z, Y), LOGITS.clone().requires_grad_())


def test_too_few_classes_for_dlr_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 3 classes, the model gives 2; use loss='cw'"):
        dlr(LOGITS[:, :2], Y)
    with pytest.raises(ValueError, match="at least 4"):
        targeted_dlr(LOGITS[:, :3], Y, Y)


def test_of_equal_logits_the_first_is_the_prediction() -> None:
    tied = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    y = torch.tensor([0, 1, 2])
    assert misclassified(tied, y).tolist() == [False, True, True]
    assert cw_margin(tied, y).tolist() == [0, 0, 0]
    assert not misclassified(tied, tied.argmax(1)).any()
    # a model that always says the same is right about class 0 alone
    assert misclassified(torch.zeros(3, 3), y).tolist() == [False, True, True]


def test_a_model_of_one_logit_is_no_classifier() -> None:
    with pytest.raises(ValueError, match="margin loss needs at least 2 classes, the model gives 1; give each class"):
        cw_margin(torch.randn(4, 1), torch.zeros(4, dtype=torch.int64))


def test_ratio_losses_are_numbers_where_all_logits_are_equal() -> None:
    logits, y = torch.zeros(2, 5, requires_grad=True), torch.tensor([0, 3])
    for loss in (dlr(logits, y), targeted_dlr(logits, y, torch.tensor([1, 2]))):
        assert loss.tolist() == [0, 0]
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(grad).all()
        assert (grad[[0, 1], y] < 0).all()
