"""The composition of training batches: DM-AT's recorded counts, and what makes it resumable."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.data import BatchPlan
from rp_models.data.batches import part
from rp_testing import GOLDEN_FILES

GOLDEN = np.load(GOLDEN_FILES / "dmat_sampler.npz")
CASES = json.loads(str(GOLDEN["config"]))["cases"]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_batches_hold_as_many_real_and_synthetic_images_as_dm_ats(number):
    case = CASES[number]
    plan = BatchPlan(
        real=case["n_real"],
        synthetic=case["n_synthetic"],
        batch_size=case["batch_size"],
        synthetic_fraction=max(case["unsup_fraction"], 0.0),
        epoch_images=case["batch_size"] * case["num_batches"],
    )
    batches = [plan.indices(0, position) for position in range(plan.batches_per_epoch)]
    assert [len(batch) for batch in batches] == GOLDEN[f"out_batch_sizes_{number}"].tolist()
    assert [int((batch < plan.real).sum()) for batch in batches] == GOLDEN[f"out_real_counts_{number}"].tolist()


plans = st.builds(
    lambda real, synthetic, batch, fraction, seed: BatchPlan(
        real=real, synthetic=synthetic, batch_size=batch, synthetic_fraction=fraction, epoch_images=3 * real, seed=seed
    ),
    st.integers(40, 90),
    st.integers(1, 200),
    st.integers(1, 40),
    st.floats(0.0, 0.99),
    st.integers(0, 2**40),
)


@settings(deadline=None, max_examples=30)
@given(plan=plans)
def test_real_images_come_once_before_any_comes_twice(plan):
    chunks = -(-plan.real // plan.real_per_batch)
    seen = torch.cat([plan.indices(0, p) for p in range(chunks)])
    assert torch.equal(seen[seen < plan.real].sort().values, torch.arange(plan.real))
    assert int(seen.max()) < plan.real + plan.synthetic


@settings(deadline=None, max_examples=20)
@given(plan=plans, epoch=st.integers(0, 5), position=st.integers(0, 5))
def test_a_batch_is_a_function_of_its_place(plan, epoch, position):
    first = plan.indices(epoch, position)
    plan.indices(epoch + 1, 0)
    assert torch.equal(first, plan.indices(epoch, position))


def test_epochs_and_seeds_differ():
    plan = BatchPlan(real=50, batch_size=50, epoch_images=50, seed=1)
    other = BatchPlan(real=50, batch_size=50, epoch_images=50, seed=2)
    assert not torch.equal(plan.indices(0, 0), plan.indices(1, 0))
    assert not torch.equal(plan.indices(0, 0), other.indices(0, 0))


def test_without_synthetic_images_a_short_chunk_goes_on_in_the_next_order():
    plan = BatchPlan(real=10, batch_size=4, epoch_images=12)
    third = plan.indices(0, 2)
    assert len(third) == 4
    assert int(third.max()) < 10


def test_synthetic_images_are_drawn_evenly():
    plan = BatchPlan(real=10, synthetic=20, batch_size=100, synthetic_fraction=0.95, epoch_images=20_000)
    drawn = torch.cat([plan.indices(0, p) for p in range(plan.batches_per_epoch)])
    counts = (drawn[drawn >= 10] - 10).bincount(minlength=20).double()
    expected = counts.sum() / 20
    assert float(((counts - expected) ** 2 / expected).sum()) < 43.8  # chi-square, 19 degrees, p = 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"synthetic_fraction": 1.5}, "must be in"),
        ({"synthetic": 0, "synthetic_fraction": 0.5}, "no synthetic images"),
        ({"real": 0}, "there are none"),
        ({"synthetic": 0, "batch_size": 11}, "there are 10"),
        ({"epoch_images": 0}, "must be positive"),
    ],
)
def test_impossible_plans_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(**{"real": 10, "synthetic": 5, "batch_size": 4, "epoch_images": 10, **change})


@settings(deadline=None, max_examples=20)
@given(size=st.integers(0, 12), count=st.integers(1, 5))
def test_the_parts_of_all_processes_make_up_the_batch(size, count):
    batch = torch.randperm(size * count)
    parts = [part(batch, rank, count) for rank in range(count)]
    assert {len(share) for share in parts} == {size}
    assert torch.equal(torch.cat(parts), batch)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="a batch of 10 cannot be divided among 4 processes; 8 could be"):
        part(torch.arange(10), 0, 4)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.1"):
        part(torch.arange(10), 2, 2)


def test_fifty_million_synthetic_images_are_drawn_from_end_to_end():
    plan = BatchPlan(real=100, synthetic=50_000_000, batch_size=1000, synthetic_fraction=0.99, epoch_images=1000)
    drawn = plan.indices(4000, 0)
    made = drawn[drawn >= 100] - 100
    assert int(made.max()) < 50_000_000
    # the mean of 990 uniform draws: five standard errors
    assert abs(float(made.double().mean()) / 50_000_000 - 0.5) < 5 * 0.2887 / 990**0.5
