"""Selection by confidence against sorting each class by hand, and the probabilities that it goes by."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.data.selection import confidence, most_confident, quotas
from torch import Tensor, nn


def by_hand(scores: Tensor, labels: Tensor, total: int) -> list[int]:
    """The slow twin: sort the members of each class, take the first few."""
    keep = quotas(labels.bincount(), total).tolist()
    kept: list[int] = []
    for label, count in enumerate(keep):
        members = [i for i in range(len(labels)) if labels[i] == label]
        kept += sorted(members, key=lambda i: (-float(scores[i]), i))[:count]
    return sorted(kept)


@settings(deadline=None, max_examples=50)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    share=st.floats(0, 1),
    levels=st.integers(1, 50),
    seed=st.integers(0, 9),
)
def test_selection_is_sorting_each_class_and_taking_its_first(labels, share, levels, seed):
    labels, total = torch.tensor(labels), int(share * len(labels))
    draw = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    scores = (draw * levels).floor() / levels  # few levels: many ties
    kept = most_confident(scores, labels, total)
    assert kept.tolist() == by_hand(scores, labels, total)
    assert len(kept) == total


@settings(deadline=None, max_examples=50)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=8), share=st.floats(0, 1))
def test_quotas_add_up_and_are_proportional_to_the_last_image(counts, share):
    counts = torch.tensor(counts)
    total = int(share * int(counts.sum()))
    keep = quotas(counts, total)
    assert int(keep.sum()) == total
    assert (keep <= counts).all()
    exact = counts.double() * total / max(int(counts.sum()), 1)
    assert ((keep - exact).abs() < 1).all()


def test_of_balanced_candidates_the_same_share_of_each_class_is_kept():
    labels, scores = torch.arange(5000) % 10, torch.rand(5000, generator=torch.Generator().manual_seed(0))
    kept = most_confident(scores, labels, 1000)
    assert torch.equal(labels[kept].bincount(), torch.full((10,), 100))
    for label in range(10):
        mine = labels == label
        dropped = torch.ones(5000, dtype=torch.bool).index_fill(0, kept, False) & mine
        assert scores[kept[labels[kept] == label]].min() >= scores[dropped].max()


def test_confidence_is_the_probability_of_the_label_whatever_the_batch():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 1, 2, 2), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    with torch.no_grad():
        p = classifier(images / 255).softmax(dim=1)
    for size in (1, 3, 7):
        score, same = confidence(classifier, images, labels, batch_size=size)
        torch.testing.assert_close(score, p[torch.arange(7), labels], rtol=1e-5, atol=1e-6)  # sums of 4 products
        assert torch.equal(same, labels)
        best, predicted = confidence(classifier, images, None, batch_size=size)
        torch.testing.assert_close(best, p.max(dim=1).values, rtol=1e-5, atol=1e-6)
        assert torch.equal(predicted, p.argmax(dim=1))


def test_bad_input_is_refused_in_words():
    labels = torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="cannot keep 4 of 3 candidates"):
        most_confident(torch.rand(3), labels, 4)
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        most_confident(torch.tensor([0.1, torch.nan, 0.3]), labels, 1)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        most_confident(torch.rand(2), labels, 1)
