"""Every GPU path on a pretended GPU: it runs, mixes no devices, gives the CPU's numbers, waits no more than before."""

import dataclasses
import json

import pytest
import torch
from rp_testing.pretended_gpu import bare
from torch.utils._pytree import tree_leaves

from tests.gpu_cases import CASES
from tests.gpu_cases.budgets import FILE, collectives, gpu

BUDGETS = json.loads(FILE.read_text())
SLOW = (
    "purify/mae-pure 3 steps, gradients",
    "purify/maskdit-pure 3 steps, gradients",
    "purify/likelihood 2 steps, gradients",
    "train/fit probe",
    "attack/autoattack",
    "attack/evaluate pgd on MAE-Pure",
    "attack/library square",
    "attack/evaluate quick suite",
    "train/finetune",
)


def numbers(value):
    """The tensors and numbers of what a case gives, on the CPU."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    found = []
    for leaf in tree_leaves(value):
        if dataclasses.is_dataclass(leaf):
            found += numbers(leaf)
        elif isinstance(leaf, torch.Tensor | float | int):
            leaf = bare(leaf)
            found.append(leaf.detach() if isinstance(leaf, torch.Tensor) else torch.tensor(leaf, dtype=torch.float64))
    return found


def run(name, device, log=None):
    """What the first two steps of a case give; the log tells of the second one."""
    torch.manual_seed(0)
    step = CASES[name](device)
    first = step(0)
    if log is not None:
        log.clear()
    return numbers([first, step(1)])


def cases():
    return [pytest.param(n, marks=pytest.mark.slow) if n.startswith(SLOW) else n for n in CASES]


@pytest.mark.parametrize("name", cases())
def test_it_runs_there_gives_what_the_cpu_gives_and_waits_no_more_than_before(name):
    expected = run(name, "cpu")
    with gpu() as log:
        found = run(name, "cuda", log)
        waits, launches, summary = log.waits, log.launches, log.summary()
    allowed = BUDGETS[name]
    assert waits <= allowed["waits"], summary
    assert launches <= 1.05 * allowed["launches"], f"{launches} launches, {allowed['launches']} were recorded"
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        # sums are grouped otherwise, of which a training in bfloat16 makes more
        tolerance = 2e-3 if name.startswith("train/") else 1e-4
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("train/") and "probe" not in name])
def test_a_step_exchanges_no_more_than_before(name):
    assert collectives(name) <= BUDGETS[name]["collectives"]


def test_every_case_has_a_ceiling_and_every_ceiling_a_case():
    assert BUDGETS.keys() == CASES.keys()


def test_a_training_step_waits_once_and_noise_and_averages_are_few_launches():
    """Once for its figures; an attack or purification step does not, else the case would, ten times."""
    exempt = ("train/fit probe", "train/finetune")  # L-BFGS looks at its loss; the adversary's attack is checked
    for name, allowed in BUDGETS.items():
        if name.startswith("train/") and not name.startswith(exempt):
            assert allowed["waits"] <= 1, name
    with gpu() as log:
        run("train/dra wrn trades+edm target, all images on the device", "cuda", log)
        launches = log.launches
        noise = sum(n for where, n in log.where.items() if "rp_models/noise" in where)
        average = sum(n for where, n in log.where.items() if "averaging.py" in where)
    assert 0 < noise <= 0.05 * launches
    assert 0 < average <= 4  # parameters, and buffers of each type


def test_the_pretended_gpu_refuses_what_cuda_refuses():
    with gpu() as log:
        x, y = torch.ones(3, device="cuda"), torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            x + y
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        with pytest.raises(RuntimeError, match="indices"):
            y[torch.tensor([0], device="cuda")]
        log.clear()
        assert x.device.type == "cuda"
        float(x.sum())
        assert x[x > 0].cpu().tolist() == [1, 1, 1]
        y.to("cuda")
        y.pin_memory().to("cuda", non_blocking=True)
        assert [e.kind for e in log.events] == ["sync:item", "sync:mask", "d2h", "h2d", "h2d:async"]
        assert log.waits == 4
    assert torch.ones(1).device.type == "cpu"
    assert not torch.cuda.is_available()
