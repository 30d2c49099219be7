"""Preparing batches ahead: same results, errors come out, nothing stays behind."""

import threading

import pytest
from rp_models.data.prefetch import prefetch


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 2, 7, 50])
def test_results_come_in_order_whatever_the_depth(depth):
    assert list(prefetch(lambda step: step * step, range(3, 20), depth=depth)) == [n * n for n in range(3, 20)]
    assert list(prefetch(lambda step: step, range(0), depth=depth)) == []


@pytest.mark.parametrize("depth", [0, 2])
def test_an_exception_comes_where_its_result_would_have_come(depth):
    def make(step):
        if step == 3:
            raise RuntimeError("file 3 is damaged")
        return step

    batches = prefetch(make, range(10), depth=depth)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="file 3"):
        next(batches)
    assert not workers()


def test_as_many_as_asked_for_are_made_ahead():
    made, reached = [], threading.Event()

    def make(step):
        made.append(step)
        if step == 2:
            reached.set()
        return step

    batches = prefetch(make, range(10), depth=2)
    assert made == []
    assert next(batches) == 0
    assert reached.wait(30)  # 0 is in use, 1 and 2 are prepared, and no more
    batches.close()
    assert made == [0, 1, 2]


def test_leaving_the_loop_ends_the_thread():
    batches = prefetch(lambda step: step, range(1000))
    assert next(batches) == 0
    assert workers()
    batches.close()
    assert not workers()


def test_a_negative_depth_is_refused_at_once():
    with pytest.raises(ValueError, match="must not be negative"):
        prefetch(lambda step: step, range(3), depth=-1)
