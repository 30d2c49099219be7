"""What is counted on tensors without values is what the real thing does, and the forecast follows from it."""

from dataclasses import replace

import pytest
import torch
from rp_dra import ClassifierTrainer, objective_of
from rp_experiments.estimate import choice, fitted
from rp_experiments.estimate.apps import estimate
from rp_experiments.estimate.cards import CARDS, USABLE
from rp_experiments.estimate.measuring import measured
from rp_experiments.estimate.stages import Estimate, Stage
from rp_experiments.estimate.steps import classifier_training, pretraining
from rp_experiments.estimate.systems import pass_cost
from rp_experiments.estimate.training import step_cost
from rp_experiments.pretrain import pretrain
from rp_experiments.recipes.dra import RECIPES
from rp_experiments.recipes.pretrain_settings import MAE_RECIPES
from rp_experiments.run import Run
from rp_models import build
from rp_models.arithmetic import Flops
from rp_models.data import describe, load_images, subset
from rp_models.settings import ComputeSettings
from rp_models.training import RunFolder
from rp_purify import Defended, settings_of
from rp_purify.build import purifier_around
from torch import nn


@pytest.fixture
def run(tmp_path):
    return Run(folder=RunFolder(tmp_path / "run"))


def test_operations_of_a_layer_and_of_grouped_convolutions():
    layer, x = nn.Linear(30, 50), torch.randn(7, 30)
    with Flops() as forward:
        out = layer(x)
    assert forward.total == 2 * 7 * 30 * 50
    with Flops() as backward:
        out.sum().backward()
    assert backward.total == 2 * 7 * 30 * 50  # the input needs no gradient

    depthwise, x = nn.Conv2d(6, 6, 3, groups=6, padding=1), torch.randn(2, 6, 5, 5, requires_grad=True)
    with Flops() as forward:
        out = depthwise(x)
    assert forward.total == 2 * (2 * 6 * 5 * 5) * 9
    with Flops() as backward:
        out.sum().backward()
    assert backward.total == 2 * forward.total


def test_the_largest_memory_is_that_of_tensors_alive_together():
    x = torch.ones(1000)
    with Flops() as counted:
        a = x + 1  # one
        b = (a * 2) * 3  # two more, of which one goes
        del a
        c = b.view(10, 100) + 1
        c += 1  # in place
    assert counted.peak == 3 * 4000


def test_a_training_step_counts_as_many_operations_as_the_real_one(run):
    config = RECIPES["smoke"]()
    config = replace(config, training=replace(config.training, attack_steps=4))
    step, _ = classifier_training(config, "at", run)
    cost = step_cost(step, 8, limit=2**40, compute=config.compute)

    images = subset(load_images("digits", "train"), 64)
    training = replace(config.training, batch_size=8)
    real = ClassifierTrainer(
        config.classifier, training, images, objective=objective_of(training, method="at", num_classes=10), seed=0
    )
    with Flops() as counted:
        real.step(0)
    assert cost.flop * 8 == counted.total
    # the real one also holds what draws, augmentation and the optimizer's step make
    assert 0.5 * counted.peak < cost.memory - cost.fixed + sum(p.numel() for p in real.model.parameters()) * 4
    assert cost.memory - cost.fixed < counted.peak


def test_a_micro_batch_is_chosen_that_fits(run):
    config = RECIPES["smoke"]()
    step, _ = classifier_training(config, "at", run)
    whole = step_cost(step, 32, limit=2**40, compute=ComputeSettings())
    assert whole.micro_batch == 32
    assert whole.memory == whole.whole
    limit = (whole.fixed + whole.whole) / 2
    part = step_cost(step, 32, limit=limit, compute=ComputeSettings(compile=True))  # and so not checkpointed
    assert 1 <= part.micro_batch < 32
    assert 32 % part.micro_batch == 0
    assert part.memory <= limit < part.whole
    assert step_cost(step, 32, limit=1.0, compute=ComputeSettings()).micro_batch == 0


def test_blocks_are_computed_again_where_no_micro_batch_fits(run):
    config = MAE_RECIPES["smoke"]()
    plain = step_cost(pretraining(config, run), 2, limit=2**40, compute=replace(config.compute, micro_batch=1))
    found = step_cost(pretraining(config, run), 2, limit=plain.memory - 1, compute=config.compute)
    assert (found.micro_batch, found.checkpointing) == (1, True)
    assert found.memory < plain.memory < found.whole
    assert found.flop > plain.flop  # the blocks' forward passes once more


def test_batch_norms_see_the_whole_batch_or_enough_images_and_pairs_stay_together(run):
    config = RECIPES["smoke"]()
    step, _ = classifier_training(config, "at", run)
    whole = step_cost(step, 64, limit=2**40, compute=ComputeSettings())
    compiled = ComputeSettings(compile=True)  # which goes with no checkpointing of batch norms
    assert not step_cost(step, 64, limit=whole.fixed, compute=compiled).fits
    limit = whole.fixed + 0.3 * (whole.whole - whole.fixed)
    assert step_cost(step, 64, limit=limit, compute=compiled).micro_batch == 16
    assert not step_cost(replace(step, divisible=False), 64, limit=limit, compute=compiled).fits
    again = step_cost(step, 64, limit=whole.whole - 1, compute=ComputeSettings())
    assert (again.micro_batch, again.checkpointing) == (64, True)  # which changes no statistics


def test_a_run_takes_and_records_the_micro_batch_that_fits_its_gpu(run, monkeypatch):
    config = replace(MAE_RECIPES["smoke"](), half=False)
    whole = step_cost(pretraining(config, run), 16, limit=2**40, compute=config.compute)
    assert fitted.pretraining(config, run, "train") == config  # a CPU's memory is not asked for
    monkeypatch.setattr(choice, "free_memory", lambda device: (whole.fixed + whole.whole) / 2 / USABLE)
    pretrain(config, run)
    (chosen,) = run.folder.memory().values()
    assert chosen["micro_batch"] < chosen["batch"] == 16
    assert chosen["counted_mib"] <= chosen["limit_mib"] < chosen["whole_mib"]
    assert run.folder.read_json("result.json")["memory"] == {"train": chosen}
    monkeypatch.setattr(choice, "step_cost", lambda *_, **__: pytest.fail("a resumed run counts nothing"))
    assert fitted.pretraining(config, run, "train").compute.micro_batch == chosen["micro_batch"]


def test_a_gpu_without_room_is_refused_with_what_to_do(run, monkeypatch):
    monkeypatch.setattr(choice, "free_memory", lambda device: 1000)
    config = MAE_RECIPES["smoke"]()
    with pytest.raises(ValueError, match=r"train: the smallest micro-batch needs .* with activation checkpointing.*"):
        fitted.pretraining(config, run, "train")
    named = replace(config, compute=replace(config.compute, micro_batch=3))
    assert fitted.pretraining(named, run, "train") == named


def test_a_purifier_of_many_steps_is_reckoned_from_few():
    info, settings = describe("digits"), settings_of("mae-pure", mae="given", steps=7)
    classifier, mae = (
        build("dm-wide-resnet", depth=10, width=1, in_channels=1, mean=[0.0], std=[1.0]),
        build("mae-digits"),
    )
    mae.requires_grad_(False), classifier.requires_grad_(False)
    system = Defended(purifier_around(settings, mae), classifier).eval()
    x, index = torch.rand(2, 1, 8, 8), torch.arange(2)
    expected = {}
    for rule in ("exact", "ste-tanh"):
        leaf = x.clone().requires_grad_()
        with Flops() as counted:
            torch.autograd.grad(system.with_gradient(rule)(leaf, seed=0, index=index).sum(), leaf)
        expected[rule] = counted.total / 2
    cost = pass_cost(classifier, info, purifier=settings, networks=(mae,), rules=tuple(expected), batch=2)
    for rule, flop in expected.items():
        assert cost.forward + cost.backward[rule] == pytest.approx(flop, rel=1e-6)


@pytest.mark.parametrize(
    ("job", "make", "stage"),
    [
        ("pretrain:pretrain", MAE_RECIPES["smoke"], "pretrain mae"),
        pytest.param("train_dra:train_dra", RECIPES["smoke"], "dm-at+dra", marks=pytest.mark.slow),
    ],
)
def test_hours_are_measured_from_real_steps_and_nothing_is_written(run, job, make, stage):
    counted = estimate(job, make(), run, card=CARDS["H100"], cards=1)
    found = measured(job, make(), run, counted)
    (training,) = (one for one in found.stages if one.name == stage)
    assert found.hours(training) == training.seconds / 3600
    assert 1e-5 < training.seconds / training.steps < 60
    assert [one.flop for one in found.stages] == [one.flop for one in counted.stages]
    assert "measured in one process" in str(found)
    assert not run.path.exists()


def test_what_trains_nothing_is_not_measured(run):
    nothing = Estimate(stages=[], card=CARDS["H100"])
    with pytest.raises(ValueError, match=r"--measure times the trainings of pretrain, .*evaluate\.py says"):
        measured("evaluate:evaluate", None, run, nothing)


def test_hours_follow_from_the_card_and_the_shared_work():
    card = CARDS["H100"]
    stage = Stage(name="training", flop=989e12 * 0.4 * 7200, memory=3 * 2**30, precision="bf16")
    assert Estimate(stages=[stage], card=card).hours(stage) == pytest.approx(2.0)
    assert Estimate(stages=[stage], card=card, cards=4).hours(stage) == pytest.approx(0.5)
    assert card.usable == 72 * 2**30
    assert "assume" in str(Estimate(stages=[stage], card=card))
