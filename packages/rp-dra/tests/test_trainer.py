"""The whole training step against DM-AT's recorded trajectory; alignment; resuming."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rp_dra import (
    Alignment,
    AlignmentSettings,
    ClassifierSettings,
    ClassifierTrainer,
    EdmTarget,
    Objective,
    Trades,
    TrainingSettings,
    alignment_loss,
    objective_of,
)
from rp_dra.mixture import Batch
from rp_models import build, noise
from rp_models.checkpoint import read_tensors
from rp_models.data import ImageSet, load_images, subset
from rp_models.data.info import DatasetInfo
from rp_models.settings import ComputeSettings
from rp_models.training import Interrupted, RunFolder, train_stage
from rp_testing import GOLDEN_FILES, fill_state
from torch.nn import functional as F

CIFAR10 = DatasetInfo(
    name="cifar10",
    class_names=tuple("abcdefghij"),
    channels=3,
    image_size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
)


class Replay:
    """Batches from a recording."""

    batch_size = 8

    def __init__(self, x, y):
        self.x, self.y = x, y

    def part(self, step):
        return Batch(self.x[step], self.y[step], torch.arange(step * 8, step * 8 + 8))


class Recorded(Objective):
    """TRADES whose attacks start from a recording."""

    def __init__(self, trades, starts):
        self.trades, self.starts = trades, iter(starts)

    def attack(self, model, x, y, *, start_noise):
        return self.trades.attack(model, x, y, start_noise=next(self.starts))

    def minimise(self, model, x, y, x_adv, *, trial=False):
        return self.trades.minimise(model, x, y, x_adv, trial=trial)


@pytest.fixture(scope="module")
def trajectory():
    """Eight steps over four epochs on DM-AT's weights, images and attack starts, measured after each epoch."""
    with np.load(GOLDEN_FILES / "dmat_watrain_trajectory.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(("in_", "out_"))}
        args = json.loads(str(file["config"]))["args"]
    x, noise, eps = golden["in_x"], golden["in_noise"], args["attack_eps"]
    trades = Trades(
        beta=args["beta"],
        label_smoothing=args["ls"],
        eps=eps,
        step_size=args["attack_step"],
        steps=args["attack_iter"],
    )
    trainer = ClassifierTrainer(
        ClassifierSettings(depth=10, width=1),
        TrainingSettings(epochs=80, batch_size=8, epoch_images=16, lr=args["lr"], eps=eps, synthetic_fraction=0.0),
        ImageSet(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), CIFAR10),
        objective=Recorded(trades, (noise / eps + 1) / 2),
        seed=1,
    )
    trainer.batches = Replay(x, golden["in_y"])
    shapes = {key: tuple(value.shape) for key, value in trainer.model.state_dict().items()}
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in fill_state(shapes).items()}
    trainer.model.load_state_dict(state)
    trainer.average.load_state_dict(state)
    records = []
    for epoch in range(4):
        metrics = [trainer.step(2 * epoch + position) for position in range(2)]
        model, average = trainer.model.state_dict(), trainer.average.state_dict()
        records.append(
            {
                "loss": torch.tensor(np.mean([m["loss"] for m in metrics])),
                "lr": torch.tensor(metrics[-1]["lr"]),
                "momentum": torch.tensor(trainer.state.optimizer.param_groups[0]["momentum"]),
                "model_init_conv": model["init_conv.weight"].clone(),
                "wa_init_conv": average["init_conv.weight"].clone(),
                "model_logits_weight": model["logits.weight"].clone(),
                "wa_logits_weight": average["logits.weight"].clone(),
                "bn0_mean": model["layer.0.block.0.batchnorm_0.running_mean"].clone(),
                "bn_last_var": model["batchnorm.running_var"].clone(),
                "wa_bn0_mean": average["layer.0.block.0.batchnorm_0.running_mean"].clone(),
                "wa_bn_last_var": average["batchnorm.running_var"].clone(),
            }
        )
    return golden, records


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [  # the reference with one thread instead of two moves losses by 2e-6 and weights by 2e-5
        ("loss", 2e-5),
        ("lr", 1e-6),
        ("momentum", 1e-6),
        ("model_init_conv", 2e-4),
        ("wa_init_conv", 2e-4),
        ("model_logits_weight", 2e-4),
        ("wa_logits_weight", 2e-4),
        ("bn0_mean", 1e-4),
        ("bn_last_var", 1e-4),
        ("wa_bn0_mean", 1e-4),
        ("wa_bn_last_var", 1e-4),
    ],
)
def test_training_follows_dm_ats_recorded_trajectory(trajectory, name, tolerance):
    golden, records = trajectory
    for epoch, record in enumerate(records):
        torch.testing.assert_close(
            record[name].to(torch.float32), golden[f"out_{name}"][epoch], atol=tolerance, rtol=tolerance
        )


def denoiser():
    return build(
        "edm",
        img_resolution=8,
        img_channels=1,
        label_dim=10,
        model_type="SongUNet",
        model_channels=8,
        channel_mult=[1, 2],
        num_blocks=1,
        attn_resolutions=[4],
    )


TRAINING = TrainingSettings(
    epochs=3,
    batch_size=16,
    epoch_images=48,
    eps=0.1,
    step_size=0.05,
    attack_steps=2,
    crop_padding=1,
    validation_steps=2,
)


def trainer(target=None, synthetic=None, robust=True, recipe=TRAINING, classifier=None, compute=None, **changes):
    real = subset(load_images("digits", "train"), 64)
    return ClassifierTrainer(
        classifier or ClassifierSettings(depth=10, width=1),
        recipe,
        real,
        objective=objective_of(recipe, robust=robust),
        compute=compute,
        synthetic=synthetic,
        validation=subset(load_images("digits", "validation"), 20),
        target=target,
        alignment=AlignmentSettings(hidden=16, **changes),
        seed=3,
    )


def run(made, folder, steps=None):
    train_stage(
        made,
        stage="t",
        steps=steps or made.steps,
        folder=folder,
        identity={},
        seed=0,
        after_step=made.after_step,
    )
    return {
        f"{name}.{key}": value.clone()
        for name, module in made.state.modules.items()
        for key, value in module.state_dict().items()
    }


def test_training_with_alignment_resumes_bit_for_bit_also_between_two_validations(tmp_path):
    target = EdmTarget(denoiser())
    synthetic = subset(load_images("digits", "validation"), 30)
    whole = run(trainer(target, synthetic), RunFolder.open(tmp_path / "a", {}, resume=False))
    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    run(trainer(target, synthetic), folder, steps=5)
    resumed = run(trainer(target, synthetic), folder)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert any(key.startswith("head.") for key in whole)


def test_methods_of_one_seed_start_from_the_same_weights_and_batches():
    plain, aligned = trainer(), trainer(EdmTarget(denoiser()))
    for own, other in zip(plain.model.parameters(), aligned.model.parameters(), strict=True):
        assert torch.equal(own, other)
    assert all(torch.equal(a, b) for a, b in zip(plain.batches.part(2), aligned.batches.part(2), strict=True))


def test_the_alignment_term_is_added_with_its_weight_and_trains_the_classifier():
    target = EdmTarget(denoiser())
    plain, aligned = trainer(), trainer(target, weight=0.7)
    a, b = plain.step(0), aligned.step(0)
    assert b["loss"] == pytest.approx(a["loss"] + 0.7 * b["alignment"], abs=1e-5)
    assert not torch.equal(plain.model.init_conv.weight, aligned.model.init_conv.weight)
    assert all(parameter.grad is None for parameter in target.parameters())


def test_batches_mix_real_and_synthetic_images():
    synthetic = subset(load_images("digits", "validation"), 30)
    marked = ImageSet(torch.full_like(synthetic.images, 255), synthetic.labels, synthetic.info)
    made = trainer(synthetic=marked)
    x, y, draw = made.batches.part(0)
    white = (x.amax(dim=(1, 2, 3)) == 1) & (x.mean(dim=(1, 2, 3)) > 0.7)
    assert int(white.sum()) == int(16 * 0.7)
    assert len(y) == 16
    assert torch.equal(draw, torch.arange(16))


def test_the_best_average_is_kept_and_ties_go_to_the_later_one():
    made = trainer()
    first = {key: value.clone() for key, value in made.average.state_dict().items()}
    made.best.offer(made.average, 0.5)
    with torch.no_grad():
        made.average.logits.bias.add_(1)
    made.best.offer(made.average, 0.4)
    assert torch.equal(made.result().logits.bias, first["logits.bias"])
    made.best.offer(made.average, 0.5)
    assert torch.equal(made.result().logits.bias, made.average.logits.bias)


def test_validation_counts_an_image_once_for_both_figures():
    made = trainer()
    clean, robust = made.validate()
    assert 0 <= robust <= clean <= 1


def test_standard_training_needs_no_attack():
    metrics = trainer(robust=False).step(0)
    assert metrics.keys() == {"loss", "lr", "accuracy"}


def test_the_target_is_the_average_bottleneck_of_one_noisy_pass():
    edm = denoiser()
    target = EdmTarget(edm, sigma=0.2)
    x, y, eps = torch.rand(3, 1, 8, 8), torch.tensor([1, 2, 3]), torch.randn(3, 1, 8, 8)
    seen = {}
    edm.model.dec["4x4_in1"].register_forward_hook(lambda *args: seen.update(out=args[2]))
    edm(2 * x - 1 + 0.2 * eps, torch.full((3,), 0.2), F.one_hot(y, 10).float())
    torch.testing.assert_close(target(x, y, noise=eps), seen["out"].mean(dim=(2, 3)), atol=1e-6, rtol=1e-5)
    assert target.width(1, 8) == 16
    assert not target(x, None, noise=eps).requires_grad
    assert not target.train().denoiser.training


def test_alignment_is_the_negative_cosine_without_gradient_to_the_target():
    a, b = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    loss = alignment_loss(a, b)
    expected = -torch.stack([(u @ v) / (u.norm() * v.norm()) for u, v in zip(a, b, strict=True)]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert b.grad is None
    twin = a.detach().clone().requires_grad_()
    (-torch.stack([(u @ v) / (u.norm() * v.norm()) for u, v in zip(twin, b.detach(), strict=True)]).mean()).backward()
    torch.testing.assert_close(a.grad, twin.grad)
    with pytest.raises(ValueError, match="one shape"):
        alignment_loss(a, b[:, :3])


def test_the_head_is_a_three_layer_mlp():
    head = Alignment(6, 4, hidden=5)
    assert [tuple(p.shape) for p in head.parameters()] == [(5, 6), (5,), (5, 5), (5,), (4, 5), (4,)]


def test_the_head_is_trained_by_the_first_step_and_its_biases_do_not_decay():
    made = trainer(EdmTarget(denoiser()))
    groups = made.state.optimizer.param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    before = [parameter.clone() for parameter in made.head.parameters()]
    made.step(0)
    for old, parameter in zip(before, made.head.parameters(), strict=True):
        assert decay[id(parameter)] == (TRAINING.weight_decay if parameter.dim() > 1 else 0)
        assert not torch.equal(old, parameter)
    assert {id(p) for p in made.model.parameters()} < decay.keys()


@pytest.mark.parametrize(("objective", "drawn"), [("trades", noise.uniform), ("trades-original", noise.normal)])
def test_a_step_starts_its_attack_with_the_noise_of_its_objective_and_the_trainers_seed(objective, drawn, monkeypatch):
    made = trainer(recipe=replace(TRAINING, objective=objective))
    seen = []
    call = type(made.objective).__call__
    monkeypatch.setattr(
        type(made.objective), "__call__", lambda *a, **k: seen.append(k["start_noise"]) or call(*a, **k)
    )
    made.step(1)
    expected = drawn((1, 8, 8), seed=3, purpose="attack start", index=torch.arange(16, 32))
    assert torch.equal(seen[0], expected)


def test_validation_starts_from_the_trainers_seed():
    made = trainer()
    x, index = made._validation.images.batch(torch.arange(6))[0], torch.arange(6)
    uniform = noise.uniform((1, 8, 8), seed=3, purpose="validation", index=index)
    torch.testing.assert_close(made._validation._start(x, index), (x + 0.1 * (2 * uniform - 1)).clamp(0, 1))


def test_validation_in_batches_counts_the_same_images():
    whole, parts = trainer(), trainer(recipe=replace(TRAINING, validation_batch=7))
    assert whole.validate() == parts.validate()


def test_l2_models_are_selected_by_an_l2_attack():
    recipe = replace(TRAINING, norm="l2", eps=0.5, step_size=0.2)
    made = trainer(recipe=recipe)
    x, _ = made._validation.images.batch(torch.arange(6))
    start = made._validation._start(x, torch.arange(6))
    assert float((start - x).flatten(1).norm(dim=1).max()) <= 0.5 + 1e-5
    clean, robust = made.validate()
    assert 0 <= robust <= clean <= 1
    assert np.isfinite(made.step(0)["loss"])


def test_a_target_with_two_representations_gets_a_head_for_each():
    made = trainer(EdmTarget(denoiser(), random_level=True))
    assert made.head.representations == 2
    assert np.isfinite(made.step(0)["alignment"])
    assert all(parameter.grad is not None for parameter in made.head.parameters())


def test_a_vision_transformer_trains_by_lion_with_a_cosine_per_step():
    recipe = replace(
        TRAINING, optimizer="lion", lr=1e-3, weight_decay=0.5, undecayed="vectors", schedule="cosine", warmup=0.5
    )
    made = trainer(
        recipe=recipe, classifier=ClassifierSettings(network="vit-digits", depth=1, width=16, arguments={"heads": 2})
    )
    before = made.model.pos_embed.clone()
    rates = [made.step(step)["lr"] for step in range(3)]
    assert rates == [0.0, pytest.approx(1e-3 * 1 / 4.5), pytest.approx(1e-3 * 2 / 4.5)]
    assert not torch.equal(made.model.pos_embed, before)


def test_half_precision_changes_the_loss_by_rounding_and_leaves_weights_in_float32():
    plain, half = trainer(), trainer(compute=ComputeSettings(precision="bf16", channels_last=True))
    a, b = plain.step(0), half.step(0)
    assert b["loss"] == pytest.approx(a["loss"], rel=0.05)  # bfloat16 has three digits
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def test_a_loss_that_is_no_number_stops_the_training_and_leaves_the_batch(tmp_path):
    made = trainer()
    whole = made.batches.part(2)
    train, steps = made.step, iter(range(9))

    def step(number):
        metrics = train(number)
        return {**metrics, "loss": float("nan")} if next(steps) == 2 else metrics

    made.step = step
    folder = RunFolder.open(tmp_path, {}, resume=False)
    with pytest.raises(Interrupted, match="at step 3"):
        run(made, folder)
    saved = read_tensors(folder.path / "failed" / "t-step-3.safetensors")
    for name, value in whole._asdict().items():
        assert torch.equal(saved[name], value)


def test_validating_without_images_is_an_error():
    real = subset(load_images("digits", "train"), 64)
    made = ClassifierTrainer(
        ClassifierSettings(depth=10, width=1), TRAINING, real, objective=objective_of(TRAINING), seed=0
    )
    assert made.after_step(3) == {}
    with pytest.raises(ValueError, match="pass validation="):
        made.validate()
