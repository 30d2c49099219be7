"""The TopK sparse autoencoder against golden files, a dense twin, and what a user does with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_analysis import SaeConfig, SaeTrainer, TopKSae, train_sae
from rp_analysis.sae_evaluation import evaluate_reconstruction, sae_sweep, top_activations
from rp_analysis.sae_training import geometric_median, learning_rate
from rp_analysis.sparse_code import attach_gradient, decode, select_top_k
from rp_testing import GOLDEN_FILES, fill_value
from torch import Tensor

FILES = {name: np.load(GOLDEN_FILES / f"analysis_sae_{name}.npz") for name in ("k8", "k16")}
TINY = SaeConfig(k=4, expansion=4, epochs=3, batch=50, lr=3e-3)


def golden_weights(name: str) -> dict[str, Tensor]:
    file, prefix = FILES[name], json.loads(str(FILES[name]["config"]))["fill_prefix"]
    shapes = (tuple(int(side) for side in shape.split("x")) for shape in file["shapes"])
    weights = {
        str(k): torch.from_numpy(fill_value(prefix + str(k), s)) for k, s in zip(file["keys"], shapes, strict=True)
    }
    weights["decoder.weight"] /= weights["decoder.weight"].norm(dim=0)
    return weights


def golden_sae(name: str, **options: str) -> TopKSae:
    config = json.loads(str(FILES[name]["config"]))
    sae = TopKSae(config["d"], config["n_latents"], config["k"], **options)
    sae.load_state_dict(golden_weights(name))
    return sae


def golden_trainer(name: str) -> SaeTrainer:
    file, config = FILES[name], json.loads(str(FILES[name]["config"]))
    trainer = SaeTrainer(
        file["in_stats_sample"],
        SaeConfig(
            k=config["k"],
            expansion=config["n_latents"] / config["d"],
            input_norm="none",
            lr=config["lr"],
            adam_eps=config["adam_eps"],
            auxk=config["auxk"],
            aux_coef=config["auxk_coef"],
            ema=config["ema_multiplier"],
        ),
    )
    trainer.sae.load_state_dict(golden_weights(name))
    trainer.dead_steps = config["dead_steps_threshold"]
    trainer.silent.copy_(torch.from_numpy(file["in_last_nonzero"]))
    return trainer


def sparse_features(n: int, d: int = 12, atoms: int = 30, seed: int = 0) -> Tensor:
    """Samples made of three of a few dictionary atoms each, around a common offset."""
    generator = torch.Generator().manual_seed(7)
    dictionary = torch.nn.functional.normalize(torch.randn(atoms, d, generator=generator), dim=1)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n, atoms, generator=generator).topk(3).indices
    return (torch.rand(n, 3, 1, generator=generator) * dictionary[chosen]).sum(dim=1) + 0.3


def dense_losses(trainer: SaeTrainer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses by full matrices and plain autograd, in the order of the published training step."""
    sae, auxk = trainer.sae, trainer.auxk
    pre = (x - sae.pre_bias) @ sae.encoder.weight.T + sae.latent_bias

    def decoded(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        top = scores.topk(k, dim=1)
        z = torch.zeros_like(scores).scatter(1, top.indices, top.values.relu())
        return z, z @ sae.decoder.weight.T + sae.pre_bias

    z, recons = decoded(pre, sae.k)
    silent = torch.where((z > trainer.config.firing).any(dim=0), 0, trainer.silent) + 1
    _, explained = decoded(pre * (silent > trainer.dead_steps), auxk)
    target = (x - recons + sae.pre_bias).detach()
    aux = (explained - target).square().mean() / (target.mean(dim=0) - target).square().mean()
    return trainer.mse_scale * (recons - x).square().mean(), aux


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("norm", "suffix"), [("none", ""), ("sample", "_ln")])
def test_codes_and_reconstructions_are_those_of_the_reference(name: str, norm: str, suffix: str) -> None:
    file, sae = FILES[name], golden_sae(name, input_norm=norm)
    x = torch.from_numpy(file["in_x0"])
    expected = torch.from_numpy(file["out_recons" + suffix])
    torch.testing.assert_close(sae(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.latents(x), torch.from_numpy(file["out_latents" + suffix]), rtol=1e-5, atol=1e-5)
    found = evaluate_reconstruction(sae, x)
    assert found.normalized_loss == pytest.approx(float(file["out_normalized_mse_batchmean" + suffix]), rel=1e-5)
    assert found.per_sample_loss == pytest.approx(float(file["out_normalized_mse_persample" + suffix]), rel=1e-5)
    assert found.mse == pytest.approx(float(file["out_mse" + suffix]), rel=1e-5)
    assert found.active == pytest.approx(file["out_active_per_row" + suffix].mean())


@pytest.mark.parametrize("name", FILES)
def test_training_steps_are_those_of_the_reference(name: str) -> None:
    file, trainer = FILES[name], golden_trainer(name)
    assert trainer.mse_scale == pytest.approx(float(file["out_mse_scale"]), rel=1e-6)
    for i in range(3):
        done = trainer.train_step(torch.from_numpy(file[f"in_x{i}"]))
        assert done.recons_loss == pytest.approx(float(file[f"out_step{i}_recons_loss"]), rel=1e-5)
        assert done.aux_loss == pytest.approx(float(file[f"out_step{i}_aux_loss"]), rel=1e-5)
        assert trainer.silent.tolist() == file[f"out_step{i}_last_nonzero"].tolist()
        if i == 0:
            assert done.dead == file["out_step0_dead"].sum()
            for key, p in trainer.sae.named_parameters():
                expected = torch.from_numpy(file[f"out_step0_grad_{key}"])
                assert (p.grad - expected).norm() <= 1e-5 * expected.norm()
    beta = trainer.config.ema
    for (key, p), mean in zip(trainer.sae.named_parameters(), trainer.average, strict=True):
        expected = torch.from_numpy(file[f"out_final_{key}"])
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=2e-6)
        expected = torch.from_numpy(file[f"out_ema_{key}"])
        torch.testing.assert_close(mean / (1 - beta**3), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", FILES)
def test_losses_and_gradients_equal_the_dense_twin(name: str) -> None:
    trainer = golden_trainer(name)
    trainer.sae.double()
    x = torch.from_numpy(FILES[name]["in_x0"]).double().requires_grad_()
    wanted = (x, *trainer.sae.parameters())
    dense = dense_losses(trainer, x)
    expected = torch.autograd.grad(dense[0] + dense[1] / 32, wanted)
    found = trainer.losses(x)
    for value, twin in zip(found, dense, strict=True):
        torch.testing.assert_close(value, twin, rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(found[0] + found[1] / 32, wanted)
    for value, twin in zip(gradients, expected, strict=True):
        torch.testing.assert_close(value, twin, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FILES)
def test_the_geometric_median_is_that_of_the_reference(name: str) -> None:
    file = FILES[name]
    found = geometric_median(torch.from_numpy(file["in_stats_sample"]))
    torch.testing.assert_close(found, torch.from_numpy(file["out_geometric_median"]), rtol=0, atol=1e-6)


def test_training_lowers_the_loss_and_more_latents_lower_it_further() -> None:
    train, held_out = sparse_features(600), sparse_features(200, seed=1)
    runs = sae_sweep(train, held_out, replace(TINY, epochs=15, batch=100), ks=(1, 4), seeds=(0,))
    before = evaluate_reconstruction(SaeTrainer(train, TINY).finished(), held_out)
    assert [run.k for run in runs] == [1, 4]
    assert runs[1].reconstruction.normalized_loss < 0.5 * before.normalized_loss
    assert runs[1].reconstruction.normalized_loss < runs[0].reconstruction.normalized_loss < 1


def test_a_resumed_training_is_the_unbroken_one_bit_by_bit(tmp_path: Path) -> None:
    features = sparse_features(220)
    config = replace(TINY, ema=0.9, dead_epochs=0.5)
    whole = SaeTrainer(features, config)
    whole.train(11)
    broken = SaeTrainer(features, config)
    broken.train(6)
    broken.save(tmp_path / "sae.npz")
    resumed = SaeTrainer.load(tmp_path / "sae.npz", features)
    resumed.train(5)
    assert resumed.step == whole.step == 11
    for key, value in whole.finished().state_dict().items():
        assert torch.equal(resumed.finished().state_dict()[key], value)
    assert [path.name for path in tmp_path.iterdir()] == ["sae.npz"]
    with pytest.raises(ValueError, match="was trained on features of shape"):
        SaeTrainer.load(tmp_path / "sae.npz", features[:100])


@settings(deadline=None, max_examples=15)
@given(b=st.integers(1, 9), d=st.integers(1, 6), n=st.integers(2, 20), seed=st.integers(0, 1000), data=st.data())
def test_sparse_products_and_their_gradients_equal_dense_ones(
    b: int, d: int, n: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    x, encoder, bias, decoder = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((b, d), (n, d), (n,), (n, d))
    )
    values, index = select_top_k(x, encoder, bias, k)
    sparse = decode(attach_gradient(values, index, x, encoder, bias).square(), index, decoder)
    pre = x @ encoder.T + bias
    dense = (pre.square() * torch.zeros_like(pre).scatter(1, index, 1.0)) @ decoder
    torch.testing.assert_close(sparse, dense, rtol=1e-10, atol=1e-12)
    weights = torch.randn(b, d, generator=generator, dtype=torch.float64)
    wanted = (x, encoder, bias, decoder)
    for found, twin in zip(
        torch.autograd.grad(sparse, wanted, weights), torch.autograd.grad(dense, wanted, weights), strict=True
    ):
        torch.testing.assert_close(found, twin, rtol=1e-10, atol=1e-12)


def test_encoding_keeps_no_dense_code() -> None:
    x, weight = torch.rand(96, 4), torch.rand(2**17, 4)
    whole = select_top_k(x, weight, torch.zeros(2**17), 3)  # two blocks of rows
    for row in (0, 63, 64, 95):
        top = (x[row] @ weight.T).topk(3)
        torch.testing.assert_close(whole[0][row], top.values)
        assert set(whole[1][row].tolist()) == set(top.indices.tolist())


def test_seeds_decide_the_run_and_the_global_generator_does_not() -> None:
    features = sparse_features(150)
    first = train_sae(features, TINY)
    torch.rand(3)
    again, other = train_sae(features, TINY), train_sae(features, replace(TINY, seed=1))
    assert torch.equal(first.encoder.weight, again.encoder.weight)
    assert not torch.equal(first.encoder.weight, other.encoder.weight)


def test_a_memory_mapped_file_trains_like_the_array(tmp_path: Path) -> None:
    features = sparse_features(150)
    np.save(tmp_path / "features.npy", features.numpy())
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert torch.equal(train_sae(mapped, TINY).encoder.weight, train_sae(features, TINY).encoder.weight)
    half = features.half()
    trainer = SaeTrainer(half.numpy(), TINY)
    assert trainer.features.dtype == torch.float16  # read in blocks, never copied whole
    trained = trainer.train()
    assert torch.equal(trained.encoder.weight, train_sae(half.float(), TINY).encoder.weight)
    losses = [evaluate_reconstruction(trained, x).normalized_loss for x in (half, half.float())]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_dataset_normalisation_makes_training_independent_of_shift_and_scale() -> None:
    features = sparse_features(300)
    losses = [
        evaluate_reconstruction(train_sae(scale * features + shift, TINY), scale * features + shift)
        for scale, shift in ((1, 0), (64, 16))
    ]
    assert losses[0].normalized_loss == pytest.approx(losses[1].normalized_loss, rel=1e-2)


def test_the_finished_model_has_unit_directions_and_keeps_the_trainer_going() -> None:
    trainer = SaeTrainer(sparse_features(150), TINY)
    sae = trainer.train(2)
    torch.testing.assert_close(sae.directions.norm(dim=1), torch.ones(48))
    assert not any(p.requires_grad for p in sae.parameters())
    assert trainer.train_step(sparse_features(50)).step == 3


def test_a_training_without_average_is_saved_and_goes_on(tmp_path: Path) -> None:
    features, config = sparse_features(120), replace(TINY, ema=None)
    whole, broken = SaeTrainer(features, config), SaeTrainer(features, config)
    whole.train(4)
    broken.train(2)
    broken.save(tmp_path / "sae.npz")
    resumed = SaeTrainer.load(tmp_path / "sae.npz", features)
    resumed.train(2)
    assert resumed.average is None
    for key, value in whole.finished().state_dict().items():
        assert torch.equal(resumed.finished().state_dict()[key], value)


@pytest.mark.parametrize(("auxk", "used"), [(None, 6), (2, 2), (0, 0), (1000, 24)])
def test_so_many_dead_latents_explain_the_residual_as_asked_for(auxk: int | None, used: int) -> None:
    trainer = SaeTrainer(sparse_features(60), replace(TINY, expansion=2, auxk=auxk))
    assert trainer.auxk == used  # of 12 features and 24 latents; None: half of the features
    trainer.silent.fill_(10**6)  # all are dead
    x = trainer.sae.normalize_inputs(sparse_features(60))[0]
    aux = trainer._aux_loss(x, x).detach()
    assert (float(aux) == 0) == (used == 0)
    more = SaeTrainer(sparse_features(60), replace(TINY, expansion=2, auxk=used + 1))
    more.silent.fill_(10**6)
    assert used >= 24 or more._aux_loss(x, x).item() != float(aux)


def test_dead_latents_come_back_with_the_auxiliary_loss() -> None:
    features = sparse_features(400)

    def dead_after(aux_coef: float) -> int:
        trainer = SaeTrainer(features, replace(TINY, k=2, epochs=60, batch=100, lr=1e-2, aux_coef=aux_coef))
        with torch.no_grad():
            trainer.sae.latent_bias[:24] = -2.0  # half of the dictionary cannot compete
        steps = []
        trainer.train(callback=steps.append)
        return steps[-1].dead

    assert dead_after(1 / 32) < dead_after(0.0)


def test_top_activations_are_the_largest_entries_of_the_dense_code(monkeypatch: pytest.MonkeyPatch) -> None:
    features = sparse_features(90)
    sae = train_sae(features, TINY)
    monkeypatch.setattr("rp_analysis.sae_evaluation.row_block", lambda width: 25)
    found = top_activations(sae, features, m=5)
    dense = sae.latents(features)
    torch.testing.assert_close(found.activation, dense.topk(5, dim=0).values.T)
    for latent in range(sae.n_latents):
        for sample, activation in zip(found.sample[latent].tolist(), found.activation[latent].tolist(), strict=True):
            assert (sample == -1) == (activation == 0)
            assert sample == -1 or dense[sample, latent] == pytest.approx(activation, rel=1e-6)


def test_the_learning_rate_follows_the_square_root_rule() -> None:
    assert learning_rate(2**14) == 2e-4
    assert learning_rate(2**16) == 1e-4


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="k in \\[1, n_latents\\]"):
        TopKSae(4, 8, 9)
    with pytest.raises(ValueError, match="input_norm must be one of"):
        TopKSae(4, 8, 2, input_norm="batch")
    with pytest.raises(ValueError, match="flatten tokens into samples"):
        TopKSae(4, 8, 2)(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="epochs must be positive"):
        SaeConfig(epochs=0)
    with pytest.raises(ValueError, match="ema must be in"):
        SaeConfig(ema=1.0)
    with pytest.raises(ValueError, match="same for every sample"):
        SaeTrainer(torch.ones(30, 4), TINY)
    with pytest.raises(ValueError, match="NaN or infinite"):
        SaeTrainer(torch.full((30, 4), torch.nan), TINY)
    with pytest.raises(ValueError, match="m must be at least 1"):
        top_activations(TopKSae(4, 8, 2), torch.zeros(3, 4), m=0)
