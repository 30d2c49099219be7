"""A compiled training step computes what the eager one does and no more, and is compiled once."""

import contextlib
from functools import partial

import pytest
import torch
from rp_attacks import PGD, evaluate
from rp_dra import ClassifierSettings, ClassifierTrainer, EdmTarget, TrainingSettings, objective_of
from rp_dra.targets import JoinedTarget
from rp_experiments.evaluate import classifier_of
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.run import Run
from rp_models import build, save
from rp_models.data import load_images, subset
from rp_models.settings import ComputeSettings
from rp_models.training import RunFolder, engine, seeded
from rp_models.training.engine import compile_network
from rp_testing.arithmetic import CompiledFlops, Flops
from torch import nn
from torch._dynamo.utils import counters

from tests.gpu_cases.case import tiny_edm

WRN = ClassifierSettings(depth=10, width=1)
VIT = ClassifierSettings(network="vit-digits", arguments={"depth": 1})


def trainer(network, recipe, *, compiled):
    settings = TrainingSettings(
        epochs=4, batch_size=8, epoch_images=64, eps=0.1, step_size=0.05, attack_steps=10, **recipe
    )
    return ClassifierTrainer(
        network,
        settings,
        subset(load_images("digits", "train"), 64),
        objective=objective_of(settings, num_classes=10),
        compute=ComputeSettings(compile=compiled),
        seed=0,
    )


@pytest.fixture
def counted(monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    found = CompiledFlops()
    monkeypatch.setattr(engine, "compile_network", partial(compile_network, backend=found.backend))
    yield found
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("network", "recipe"),
    [
        pytest.param(WRN, {}, id="wrn-trades"),
        pytest.param(WRN, {"objective": "pgd-at"}, id="wrn-pgd-at"),
        pytest.param(VIT, {"optimizer": "lion", "lr": 1e-4}, id="vit-trades"),
        pytest.param(WRN, {"objective": "adr"}, id="wrn-adr", marks=pytest.mark.slow),
        pytest.param(WRN, {"objective": "ikl"}, id="wrn-ikl", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_step_computes_no_more_than_an_eager_one(counted, network, recipe):
    eager = trainer(network, recipe, compiled=False)
    eager.step(0)
    with Flops() as work:
        eager.step(1)

    compiled = trainer(network, recipe, compiled=True)
    graphs = []
    for step in range(3):
        counted.by_graph.clear()
        compiled.step(step)
        graphs.append(counted.graphs)
    assert 0 < counted.total <= 1.01 * work.total
    assert graphs[0] == 0  # the first step, whose batch norms have another momentum, is not compiled
    assert graphs[1] == graphs[2]
    assert not counters["graph_break"], dict(counters["graph_break"])
    weights, expected = compiled.model.state_dict(), eager.model.state_dict()
    eager.step(2)
    for key, value in weights.items():  # sums in another order, grown by three steps
        torch.testing.assert_close(value, expected[key], atol=1e-4, rtol=1e-4)
    assert all(p.requires_grad for p in compiled.model.parameters())


def test_an_error_in_the_attack_leaves_the_weights_trainable(counted):
    from rp_dra.objectives.passes import frozen_if_compiled

    model = trainer(WRN, {}, compiled=True).model
    with contextlib.suppress(RuntimeError), frozen_if_compiled(model):
        assert not any(p.requires_grad for p in model.parameters())
        raise RuntimeError
    assert all(p.requires_grad for p in model.parameters())


def test_a_compiled_target_gives_the_same_features():
    torch._dynamo.reset()
    counters.clear()
    target = JoinedTarget([EdmTarget(tiny_edm(), sigma=sigma) for sigma in (0.1, 0.3)], random_level=True)
    x, y = load_images("digits", "test").batch(slice(4))
    draws = {"noise": torch.randn(4, *target.noise_shape(x.shape[1:])), "level": torch.randn(4)}
    expected = target(x, y, **draws)
    target.compile_features(backend="aot_eager")
    torch.testing.assert_close(target(x, y, **draws), expected, atol=1e-6, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1  # at a random level both do the same
    torch._dynamo.reset()


def test_a_compiled_classifier_is_attacked_as_an_eager_one(monkeypatch, tmp_path):
    torch._dynamo.reset()
    counters.clear()
    with seeded(0, "classifier"):
        save(build("dm-wide-resnet", depth=10, width=1, in_channels=1, num_classes=10), tmp_path / "c.safetensors")
    eager_compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: eager_compile(self, backend="aot_eager"))
    config, found = Evaluation(data="digits"), []
    x, _ = load_images("digits", "test").batch(slice(8))
    for compiled in (False, True):
        run = Run(folder=RunFolder(tmp_path / "run"), compiled=compiled)
        model = classifier_of(config, str(tmp_path / "c.safetensors"), run).eval()
        y = model(x).argmax(dim=1)
        found.append(evaluate(model, x, y, {"pgd": PGD(eps=0.1, step_size=0.03, steps=3)}, seed=0).worst.wrong)
    assert counters["stats"]["unique_graphs"] >= 1
    assert (found[0] == found[1]).all()
    assert found[0].any()
    torch._dynamo.reset()
