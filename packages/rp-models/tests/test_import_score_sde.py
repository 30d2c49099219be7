"""The readers of score_sde's, guided-diffusion's and ResNet files against the references' own outputs and layouts."""

from types import SimpleNamespace

import pytest
import torch
from rp_models import CheckpointError, load, parameter_count, save, zoo
from rp_models.diffusion.discrete import DiscreteVPPrecond, learned_log_variance, posterior_step
from rp_models.diffusion.precondition import vp_sigma
from rp_models.diffusion.vp_schedule import DiscreteSchedule
from rp_models.importers import read_guided_diffusion, read_resnet, read_score_sde
from rp_testing import Golden, fill_state


def state_of(golden):
    return {key: torch.from_numpy(value) for key, value in fill_state(golden.shapes).items()}


def training_checkpoint(golden, path, *, change=lambda listed: listed, model=True, wrapped=False):
    """A file with the four entries of the reference: the average is a list in the order of the parameters."""
    state = state_of(golden)
    listed = [state[str(key)] for key in golden.arrays["param_keys"]] if "param_keys" in golden.arrays else None
    listed = listed or [value for key, value in state.items() if key != "sigmas"]
    content = {"optimizer": {"state": {}}, "step": 3}
    content["ema"] = {"decay": 0.9999, "num_updates": 3, "shadow_params": change(listed)}
    if model:
        content["model"] = {("module." if wrapped else "") + key: value + 1 for key, value in state.items()}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_score_sde_file_computes_what_the_reference_does(tmp_path, wrapped):
    golden = Golden("score_sde_ddpmpp_tiny")
    imported = read_score_sde(training_checkpoint(golden, tmp_path / "c.pth", wrapped=wrapped), img_resolution=16)
    model = imported.build()
    assert imported.arguments["channel_mult"] == golden.config["net"]["ch_mult"]
    assert imported.arguments["attn_resolutions"] == golden.config["net"]["attn"]
    x, t = golden["in_x"], golden["in_t"]
    raw = model.model(x, 999 * t)
    golden.check(out_eps=raw, out_score=-raw / golden["out_std"].view(-1, 1, 1, 1))
    sigma = vp_sigma(t).view(-1, 1, 1, 1)
    y = x * (1 + sigma.square()).sqrt()
    eps = (y - model(y, sigma, noise_label=None)) / sigma
    torch.testing.assert_close(eps[1], golden["out_eps"][1], atol=5e-5, rtol=0)  # y - D loses digits
    save(model, tmp_path / "ours.safetensors")
    assert torch.equal(load(tmp_path / "ours.safetensors")(y, sigma), model(y, sigma))


def test_the_list_counts_and_not_the_weights_by_name_unless_they_are_asked_for(tmp_path):
    golden = Golden("score_sde_ddpmpp_tiny")
    path = training_checkpoint(golden, tmp_path / "c.pth")
    average = read_score_sde(path, img_resolution=16).state
    other = read_score_sde(path, img_resolution=16, weights="model").state
    key = "model.enc.16x16_conv.weight"
    assert torch.equal(average[key] + 1, other[key])
    torch.save(torch.load(path)["model"], tmp_path / "bare.pt")
    assert torch.equal(read_score_sde(tmp_path / "bare.pt", img_resolution=16).state[key], other[key])
    alone = training_checkpoint(golden, tmp_path / "alone.pth", model=False)
    assert all(
        torch.equal(value, average[key]) for key, value in read_score_sde(alone, img_resolution=16).state.items()
    )


def swapped(listed):
    """Two neighbours of one shape in reverse leave no trace, so two of different shapes are taken."""
    return [*listed[:6], listed[8], listed[7], listed[6], *listed[9:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: listed[:-1], "the average has 207 tensors and the network 208 parameters"),
        (lambda listed: listed[:5] + listed[6:], "207 tensors"),
        (swapped, "tensor 6 of the average has shape"),
        (lambda listed: {"a": 1}, "expected the averaged weights ema/shadow_params"),
        (lambda listed: [*listed[:3], "x", *listed[4:]], r"shadow_params\[3\]"),
    ],
)
def test_a_list_that_does_not_fit_the_names_is_refused(tmp_path, change, message):
    path = training_checkpoint(Golden("score_sde_ddpmpp_tiny"), tmp_path / "c.pth", change=change)
    with pytest.raises(CheckpointError, match=message):
        read_score_sde(path, img_resolution=16)


@pytest.mark.parametrize("gone", [0, 1, 5, 6, 9, 11, 26, 27, 60, 100, 150, 206, 207])
def test_a_list_without_names_that_lacks_a_tensor_is_refused_wherever_it_is(tmp_path, gone):
    def without(listed):
        return listed[:gone] + listed[gone + 1 :]

    path = training_checkpoint(Golden("score_sde_ddpmpp_tiny"), tmp_path / "c.pth", change=without, model=False)
    with pytest.raises(CheckpointError, match=str(path)):
        read_score_sde(path, img_resolution=16)


def test_files_of_other_architectures_are_refused_in_one_sentence(tmp_path):
    guided, score = state_of(Golden("guided_process_tiny")), state_of(Golden("score_sde_ddpmpp_tiny"))
    torch.save(guided, tmp_path / "guided.pt")
    torch.save(score, tmp_path / "score.pt")
    torch.save({**guided, "input_blocks.2.0.op.weight": torch.zeros(1)}, tmp_path / "convolutions.pt")
    torch.save({**guided, "odd.weight": torch.zeros(1)}, tmp_path / "odd.pt")
    fourier = [value for key, value in score.items() if key != "sigmas"]
    fourier[0] = torch.zeros(64, 32)
    torch.save({"ema": {"shadow_params": fourier}}, tmp_path / "fourier.pth")
    for read, name, message in (
        (read_score_sde, "guided", "expected the averaged weights"),
        (read_guided_diffusion, "score", "no weights of a U-Net of guided-diffusion"),
        (read_guided_diffusion, "convolutions", "resblock_updown=False"),
        (read_guided_diffusion, "odd", "has no odd.weight"),
        (read_resnet, "guided", "no weights of a ResNet"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path / f"{name}.pt")
    with pytest.raises(CheckpointError, match="Fourier features"):
        read_score_sde(tmp_path / "fourier.pth", img_resolution=16)


def test_a_guided_diffusion_file_computes_what_the_reference_does(tmp_path):
    golden = Golden("guided_unet_tiny")
    torch.save(state_of(golden), tmp_path / "g.pt")
    model = read_guided_diffusion(tmp_path / "g.pt", img_resolution=16, use_fp16=False).build()
    golden.check(out_eps_and_v=model.model(golden["in_x"], golden["in_t"].float()))
    sigma = float(model.schedule.sigma[149])
    y = golden["in_x"][1:] * (1 + sigma**2) ** 0.5
    denoised = model(y, sigma)
    torch.testing.assert_close((y - denoised) / sigma, golden["out_eps_and_v"][1:, :3], atol=1e-4, rtol=0)
    found = model.with_variance(y, sigma, noise_label=149.0)
    torch.testing.assert_close(found.denoised, denoised, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.v, golden["out_eps_and_v"][1:, 3:], atol=1e-4, rtol=0)


def test_the_discrete_process_steps_as_the_reference(tmp_path):
    golden = Golden("guided_process_tiny")
    torch.save(state_of(golden), tmp_path / "g.pt")
    model = read_guided_diffusion(tmp_path / "g.pt", img_resolution=8, use_fp16=False).build()
    respacing = int(golden.config["respacing"])
    schedule = model.schedule if respacing == 1000 else model.schedule.respaced(respacing)
    first, second = schedule.posterior_mean
    for name, table in (
        ("alphas_cumprod", schedule.abar),
        ("betas", schedule.betas),
        ("posterior_log_variance_clipped", schedule.posterior_log_variance),
        ("posterior_mean_coef1", first),
        ("posterior_mean_coef2", second),
    ):
        torch.testing.assert_close(table, golden[f"out_{name}"], atol=0, rtol=1e-9)  # both are float64
    assert list(schedule.kept) == golden["out_timestep_map"].tolist()
    steps = golden.config["steps"]
    x = schedule.abar[steps[0]].sqrt() * golden["in_x"] + (1 - schedule.abar[steps[0]]).sqrt() * golden["in_noise"]
    states, clean, means, variances = [x.float()], [], [], []
    for index, unit in zip(steps, golden["in_units"], strict=True):
        y = states[-1] / float(schedule.abar[index]) ** 0.5
        found = model.with_variance(y, float(schedule.sigma[index]), noise_label=schedule.kept[index])
        clean.append(found.denoised.clamp(-1, 1))
        variances.append(learned_log_variance(found.v, schedule, index))
        mean, after = posterior_step(states[-1], clean[-1], variances[-1], unit, schedule, index)
        means.append(mean)
        states.append(after)
    golden.check(out_states=torch.stack(states), out_pred_xstart=torch.stack(clean))
    golden.check(out_mean=torch.stack(means), out_log_variance=torch.stack(variances))


def test_respacing_keeps_both_ends_and_the_products(tmp_path):
    schedule = DiscreteSchedule.linear()
    respaced = schedule.respaced(250)
    assert (respaced.kept[0], respaced.kept[-1], len(respaced)) == (0, 999, 250)
    torch.testing.assert_close(respaced.abar, schedule.abar[list(respaced.kept)], rtol=1e-12, atol=0)
    assert list(schedule.respaced(1000).kept) == list(range(1000))
    cosine = DiscreteSchedule.named("cosine", 4000)
    assert float(cosine.abar[0]) > 0.9999
    assert float(cosine.betas[-1]) == 0.999
    for wrong in (1, 1001):
        with pytest.raises(ValueError, match="keeps 2 to 1000"):
            schedule.respaced(wrong)
    with pytest.raises(ValueError, match="'linear' or 'cosine'"):
        DiscreteSchedule.named("square")


def test_the_index_is_interpolated_or_the_nearest():
    sizes = {"img_resolution": 8, "img_channels": 1, "model_channels": 16, "channel_mult": [1], "num_blocks": 1}
    model = DiscreteVPPrecond(**sizes, attn_resolutions=[])
    levels = model.schedule.sigma.float()
    torch.testing.assert_close(model.index(levels), torch.arange(1000.0), atol=2e-3, rtol=0)  # float32 logarithms
    between = (levels[100] * levels[101]).sqrt()
    assert float(model.index(between)) == pytest.approx(100.5, abs=2e-3)
    assert model.index(torch.tensor([1e-4, 1e9])).tolist() == [0, 999]
    nearest = DiscreteVPPrecond(**sizes, attn_resolutions=[], rounding="nearest")
    assert nearest.index(0.4 * levels[100] + 0.6 * levels[101]) == 101
    assert nearest.index(0.6 * levels[100] + 0.4 * levels[101]) == 100
    with pytest.raises(ValueError, match="fractional, nearest"):
        DiscreteVPPrecond(**sizes, rounding="floor")
    with pytest.raises(ValueError, match="no learned variance"):
        DiscreteVPPrecond(**sizes, attn_resolutions=[], learn_sigma=False).with_variance(
            torch.zeros(1, 1, 8, 8), 1.0, noise_label=0
        )


def meta_state(golden):
    return {key: torch.empty(shape, device="meta") for key, shape in golden.shapes.items()}


def test_the_released_sizes_map_one_to_one(monkeypatch):
    score, guided = Golden("full_score-sde-cifar10-ddpmpp-deep-vp"), Golden("full_guided-diffusion-256-uncond")
    shapes = meta_state(score)
    listed = [shapes[str(key)] for key in score.arrays["param_keys"]]
    files = {"score": {"ema": {"shadow_params": listed}, "model": shapes}, "guided": meta_state(guided)}
    for module in ("score_sde", "guided_diffusion"):
        monkeypatch.setattr(f"rp_models.importers.{module}.read_torch_file", lambda path, **_: files[path])
    for imported, name, golden in (
        (read_score_sde("score"), "score-sde-cifar10-vp", score),
        (read_guided_diffusion("guided"), "guided-diffusion-256-uncond", guided),
    ):
        with torch.device("meta"):
            expected = zoo.build(name).state_dict()
            ours = zoo.build(imported.architecture, **imported.arguments).state_dict()
        assert {k: v.shape for k, v in imported.state.items()} == {k: v.shape for k, v in expected.items()}
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
        assert parameter_count(name) == golden.config["parameters"]


@pytest.mark.parametrize("depth", [50, 101])
def test_torchvisions_resnets_become_the_zoos(tmp_path, depth):
    pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        state = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}
    torch.save(state, tmp_path / "resnet.pth")
    imported = read_resnet(tmp_path / "resnet.pth")
    assert imported.architecture == f"resnet{depth}"
    with torch.device("meta"):
        ours = zoo.build(imported.architecture, **imported.arguments).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in imported.state.items()}


def test_a_resnet_of_torchvision_computes_the_same_here(tmp_path):
    pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = read_resnet(tmp_path / "resnet.pth", mean=None, std=None).build()
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    torch.save({**theirs.state_dict(), "layer3.9.conv1.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="no ResNet has 3 such blocks"):
        read_resnet(tmp_path / "odd.pth")


def listed(unet):
    """The parameters of the twin as the reference lists them: attention apart, from input to output."""
    layers = [unet.map_layer0, unet.map_layer1]
    for part in (*unet.enc.values(), *unet.dec.values()):
        names = ("norm0", "conv0", "affine", "norm1", "conv1", "skip") if hasattr(part, "norm0") else ()
        layers += [getattr(part, name) for name in names if getattr(part, name) is not None] or [part]
        if getattr(part, "heads", 0):
            weights = (*part.qkv.weight.unflatten(0, (-1, 3)).unbind(1), part.proj.weight)
            biases = (*part.qkv.bias.unflatten(0, (-1, 3)).unbind(1), part.proj.bias)
            linear = zip((weight[:, :, 0, 0].T for weight in weights), biases, strict=True)
            layers += [part.norm2, *(SimpleNamespace(weight=weight, bias=bias) for weight, bias in linear)]
    return [value.detach().clone() for layer in layers for value in (layer.weight, layer.bias)]


@pytest.mark.parametrize(
    ("multiples", "blocks", "attends"),
    [([1], 1, []), ([1, 2], 3, [16, 8]), ([2, 1, 3], 2, [8]), ([2, 2, 2], 1, [16, 8, 4]), ([1, 2, 2], 2, [16, 4])],
)
def test_any_network_of_this_kind_is_read_off_a_list_without_names(tmp_path, multiples, blocks, attends):
    sizes = {"channel_mult": multiples, "num_blocks": blocks, "attn_resolutions": attends, "dropout": 0.2}
    model = zoo.build("vp-precond", img_resolution=16, img_channels=1, model_channels=16, **sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    torch.save({"ema": {"shadow_params": listed(model.model)}}, tmp_path / "c.pth")
    imported = read_score_sde(tmp_path / "c.pth", img_resolution=16, dropout=0.2)
    assert {name: imported.arguments[name] for name in sizes} == sizes
    state = model.state_dict()
    assert list(imported.state) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in imported.state.items())
