"""Every job of the papers' scale is done on a pretended GPU: its settings, but tiny networks, few images, few steps."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from rp_experiments.artifacts import Artifact, Store, data_sets, in_order
from rp_experiments.papers.graph import make
from rp_experiments.papers.ingredients import ingredients
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.scales import SCALES

from .gpu_cases.budgets import gpu
from .tiny_plan import make_tiny, tiny_artifact, write_files

ELSEWHERE = {"zoo"}  # over RobustBench's own files, see test_robustbench_apps.py


@pytest.fixture(scope="module")
def needed() -> list[Artifact]:
    plan = SCALES["paper"]()
    return in_order(one for item in ITEMS.values() for one in item.needed(plan) if one.job not in ELSEWHERE)


@pytest.fixture
def folder(tmp_path, monkeypatch, needed) -> Iterator[Path]:
    """With small files in place of all that the plan reads."""
    make_tiny(monkeypatch)
    write_files(tmp_path, [one.name for one in ingredients(needed) if one.source == "missing"])
    with contextlib.chdir(tmp_path):
        yield tmp_path


def failures(artifacts: Iterable[Artifact], folder: Path) -> dict[str, str]:
    """By name of the product what went wrong; what needs a product that failed is left out."""
    store, failed = Store(folder / "store"), dict[str, str]()
    surroundings = {"device": "cuda", "cache": folder / "cache", "root": folder / "data"}
    for artifact in in_order(map(tiny_artifact, artifacts)):
        if failed.keys() & {need.name for need in artifact.needs.values()}:
            continue
        try:
            with gpu():
                make(artifact, store.path, surroundings)
        except Exception as error:
            failed[artifact.name] = f"{artifact.job} on {', '.join(data_sets(artifact))}: {error!r}"
    return failed


def test_networks_of_the_papers_scale_are_made_on_the_pretended_gpu(folder, needed):
    chosen = [one for one in needed if one.job == "networks" and data_sets(one) == ["svhn"]][:1]
    assert chosen
    assert failures(chosen, folder) == {}


@pytest.mark.slow
def test_every_job_of_the_papers_scale_is_done_on_the_pretended_gpu(folder, needed):
    assert failures(needed, folder) == {}
