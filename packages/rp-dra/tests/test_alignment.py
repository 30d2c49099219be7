"""The alignment head and loss: REPA's numbers, one or two representations, gradients."""

import numpy as np
import pytest
import torch
from rp_dra import Alignment, alignment_loss
from rp_testing import GOLDEN_FILES, fill_state


def test_head_and_loss_equal_repas():
    with np.load(GOLDEN_FILES / "repa_projector_tiny.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(("in_", "out_"))}
        shapes = {
            str(key): tuple(map(int, str(shape).split("x")))
            for key, shape in zip(file["keys"], file["shapes"], strict=True)
        }
    alignment = Alignment(32, 24, hidden=64)
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in fill_state(shapes).items()}
    alignment.head.load_state_dict(state)
    with torch.no_grad():
        # the reference projects every token; here each token is an image
        projected = alignment.project(golden["in_hidden"].flatten(0, 1)).unflatten(0, (2, 9)).squeeze(2)
        torch.testing.assert_close(projected, golden["out_projected"], atol=1e-5, rtol=1e-5)
        loss = alignment(golden["in_hidden"].flatten(0, 1), golden["in_target"].flatten(0, 1))
    torch.testing.assert_close(loss, golden["out_proj_loss"], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        alignment_loss(golden["out_projected"], golden["in_target"]), golden["out_proj_loss"], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_of_two_representations_is_the_mean_of_two_losses(shared):
    alignment = Alignment(6, 5, hidden=7, representations=2, shared=shared)
    assert sum(p.numel() for p in alignment.parameters()) == (1 if shared else 2) * (6 * 7 + 7 + 7 * 7 + 7 + 7 * 5 + 5)
    features, target = torch.randn(4, 6), torch.randn(4, 2, 5)
    second = alignment.head if shared else alignment.more[0]
    expected = (
        alignment_loss(alignment.head(features), target[:, 0]) + alignment_loss(second(features), target[:, 1])
    ) / 2
    torch.testing.assert_close(alignment(features, target), expected)
    alignment(features, target).backward()
    assert all(parameter.grad is not None for parameter in alignment.parameters())


def test_a_single_representation_may_stand_alone_or_in_a_row_of_one():
    alignment = Alignment(6, 5, hidden=7)
    features, target = torch.randn(4, 6), torch.randn(4, 5)
    assert torch.equal(alignment(features, target), alignment(features, target[:, None]))


def test_a_head_for_other_representations_is_refused():
    with pytest.raises(ValueError, match=r"built for 1 representation.*gives 2"):
        Alignment(6, 5, hidden=7)(torch.randn(4, 6), torch.randn(4, 2, 5))
    with pytest.raises(ValueError, match="at least 1"):
        Alignment(6, 5, representations=0)
