"""EDM's networks and preconditioning against recorded outputs of the public reference."""

import pytest
import torch
from rp_models import noise, zoo
from rp_models.diffusion.precondition import EDMPrecond, VEPrecond, VPPrecond
from rp_testing import Golden

CLASSES = {"EDMPrecond": EDMPrecond, "VPPrecond": VPPrecond, "VEPrecond": VEPrecond}
NETWORKS = ["edm_ddpmpp_tiny", "edm_ncsnpp_tiny", "edm_adm_tiny"]
FEATURES = ("enc_last", "mid_in0", "bottleneck", "before_up")


def build(golden):
    return CLASSES[golden.config["build"]["class"]](**golden.config["build"]["kwargs"]).eval()


def check_outputs(golden, model):
    x, sigma = golden["in_x"], golden["in_sigma"]
    labels = golden["in_class_labels"] if "in_class_labels" in golden.arrays else None
    raw = []
    model.model.register_forward_hook(lambda module, inputs, output: raw.append(output))
    golden.check(out_D=model(x, sigma, labels))
    golden.check(
        out_F=raw[0],
        out_noise_embedding=model.model.map_noise(golden["in_c_noise"]),
        **{f"out_{at}": model.features(x, sigma, labels, at=at) for at in FEATURES},
    )
    if labels is not None:
        augmented = model(x, sigma, labels, augment_labels=golden["in_augment_labels"])
        golden.check(out_D_nolabel=model(x, sigma), out_D_augment=augmented)


@pytest.mark.parametrize("name", [*NETWORKS, "edm_vpprecond_ddpmpp_tiny", "edm_veprecond_ncsnpp_tiny"])
def test_denoiser_and_features_equal_the_reference(name):
    golden = Golden(name)
    check_outputs(golden, golden.fill(build(golden)))


@pytest.mark.parametrize("name", NETWORKS)
def test_with_its_own_resampling_filters_a_network_equals_the_reference(name):
    golden = Golden(f"{name}_kept")
    model = build(golden)
    kept = {key: model.state_dict()[key].clone() for key in golden.config["kept_keys"]}
    for key, value in kept.items():
        torch.testing.assert_close(value, golden[f"const_{key}"], rtol=0, atol=1e-7)
    model = golden.fill(model)
    model.load_state_dict(kept, strict=False)
    check_outputs(golden, model)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("edm-cifar10-cond-vp", "full_edm-cifar10-32x32-cond-vp"),
        ("edm-cifar10-uncond-vp", "full_edm-cifar10-32x32-uncond-vp"),
        ("edm-cifar10-cond-ve", "full_edm-cifar10-32x32-cond-ve"),
        ("edm-ffhq-uncond-vp", "full_edm-ffhq-64x64-uncond-vp"),
        ("edm-imagenet64-cond-adm", "full_edm-imagenet-64x64-cond-adm"),
    ],
)
def test_full_sizes_have_the_released_keys_shapes_and_parameter_counts(name, file):
    golden = Golden(file)
    with torch.device("meta"):
        model = zoo.build(name)
        golden.check_keys(model)
        golden.check_keys(EDMPrecond(**golden.config["build"]["kwargs"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.config["parameters"]


@pytest.mark.parametrize("name", zoo.names("edm"))
def test_every_zoo_entry_of_a_released_model_builds(name):
    arguments = {"img_resolution": 8, "img_channels": 1} if name == "edm" else {}
    assert zoo.parameter_count(name, **arguments) > 10_000


def tiny(**changes):
    arguments = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_type": "SongUNet", "augment_dim": 9}
    arguments |= {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    model = EDMPrecond(**{**arguments, **changes}).eval()
    fill = noise.normal((1,), seed=1, purpose="weights", index=torch.arange(sum(p.numel() for p in model.parameters())))
    with torch.no_grad():  # a fresh network's last layers are zero
        for parameter, values in zip(
            model.parameters(), fill.flatten().split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.copy_(values.reshape(parameter.shape) / max(1, parameter[0].numel()) ** 0.5)
    return model


def batch(count=3, channels=1, size=8):
    x = noise.normal((channels, size, size), seed=0, purpose="x", index=torch.arange(count))
    return x, torch.linspace(0.3, 5, count), torch.arange(count)


KINDS = [
    {"model_type": "SongUNet"},
    {"encoder_type": "residual", "embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]},
    {"encoder_type": "skip", "decoder_type": "skip", "channel_mult": [1, 2, 2], "img_channels": 3},
    {"model_type": "DhariwalUNet", "model_channels": 32, "channel_mult": [1, 2]},
]


@pytest.mark.parametrize("kind", KINDS)
def test_small_images_of_any_kind_of_network_get_gradients_everywhere(kind):
    model = tiny(**kind)
    x, sigma, labels = batch(channels=model.img_channels)
    x.requires_grad_()
    denoised = model(x, sigma, labels, augment_labels=torch.ones(3, 9))
    assert denoised.shape == x.shape
    denoised.square().sum().backward()
    assert bool((x.grad != 0).any())
    assert all(bool((parameter.grad != 0).any()) for parameter in model.parameters())


@pytest.mark.parametrize("at", FEATURES)
def test_a_partial_forward_runs_no_block_after_its_feature(at):
    model, ran = tiny(), []
    for name, block in [*model.model.enc.items(), *model.model.dec.items()]:
        block.register_forward_hook(lambda module, inputs, output, name=name: ran.append(name))
    x, sigma, labels = batch()
    x.requires_grad_()
    features = model.features(x, sigma, labels, at=at)
    decoder = ["4x4_in0", "4x4_in1", "4x4_block0", "4x4_block1"]
    after = {"enc_last": 0, "mid_in0": 1, "bottleneck": 2, "before_up": 4}
    assert ran == [*model.model.enc, *decoder[: after[at]]]
    assert features.shape == (3, 16, 4, 4)
    features.sum().backward()
    assert bool((x.grad != 0).any())


def test_labels_may_be_indices_one_hot_or_absent():
    model = tiny()
    x, sigma, labels = batch()
    one_hot = torch.eye(10)[labels]
    assert torch.equal(model(x, sigma, labels), model(x, sigma, one_hot))
    assert torch.equal(model(x, sigma, labels.to(torch.uint8)), model(x, sigma, one_hot))
    assert torch.equal(model(x, sigma), model(x, sigma, torch.zeros(3, 10)))
    assert not torch.allclose(model(x, sigma, labels), model(x, sigma), atol=1e-3)


def test_sigma_may_be_a_number_a_scalar_or_one_value_an_image():
    model = tiny()
    x, _, labels = batch()
    expected = model(x, torch.full((3,), 0.7), labels)
    for sigma in (0.7, torch.tensor(0.7), torch.tensor(0.7, dtype=torch.float64), torch.full((3, 1, 1, 1), 0.7)):
        # one embedding for the batch is a product of another shape: float32 sums may differ in order
        torch.testing.assert_close(model(x, sigma, labels), expected, rtol=1e-5, atol=1e-5)


def test_label_dropout_drops_labels_in_training_only():
    model = tiny(label_dropout=1.0, dropout=0.0)
    x, sigma, labels = batch()
    assert not torch.allclose(model(x, sigma, labels), model(x, sigma), atol=1e-3)
    model.train()
    assert torch.equal(model(x, sigma, labels), model(x, sigma, torch.zeros(3, 10)))


def test_half_precision_is_for_cuda_only():
    model, half = tiny(), tiny(use_fp16=True)
    half.load_state_dict(model.state_dict())
    assert torch.equal(model(*batch()), half(*batch()))


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_computes_the_same(kind):
    model = tiny(**kind)
    x, sigma, labels = batch(channels=model.img_channels)
    expected = model(x, sigma, labels)
    model.to(memory_format=torch.channels_last)
    result = model(x.to(memory_format=torch.channels_last), sigma, labels)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)  # other kernels, other order of sums


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_stays_close(kind):
    model = tiny(**kind)
    x, sigma, labels = batch(channels=model.img_channels)
    expected = model(x, sigma, labels)
    with torch.autocast("cpu", torch.bfloat16):
        result = model(x, sigma, labels)
        result.square().mean().backward()
    assert result.dtype == torch.float32
    # 8 bits a product, a dozen layers; outputs are of order 1 to 5
    torch.testing.assert_close(result, expected, rtol=0.1, atol=0.1 * expected.detach().abs().max().item())


@pytest.mark.parametrize(("kind", "method"), [(KINDS[1], "forward"), (KINDS[3], "features")])
def test_the_computation_is_one_graph(kind, method):
    model = tiny(**kind, num_blocks=0)
    x, sigma, labels = batch(channels=model.img_channels)
    # "eager" captures the graph and leaves out the code generation, which is torch's own business
    compiled = torch.compile(getattr(model, method), fullgraph=True, backend="eager")
    expected = getattr(model, method)(x, sigma, labels)
    torch.testing.assert_close(compiled(x, sigma, labels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 2, 8, 8)}, r"x must have shape \(batch, 1, 8, 8\), got \(3, 2, 8, 8\)"),
        ({"x": torch.zeros(3, 1, 16, 16)}, r"x must have shape \(batch, 1, 8, 8\)"),
        ({"x": torch.zeros(1, 8, 8)}, r"x must have shape"),
        ({"sigma": torch.tensor([1.0, 0.0, 2.0])}, "sigma must be positive, got a minimum of 0"),
        ({"sigma": torch.tensor(float("nan"))}, "sigma must be positive"),
        ({"sigma": torch.ones(2)}, "one for each of the 3 images, got 2"),
        ({"class_labels": torch.tensor([0, 10, 1])}, r"class labels must be in 0..9, got 0..10"),
        ({"class_labels": torch.tensor([-1, 0, 1])}, r"class labels must be in 0..9, got -1..1"),
        ({"class_labels": torch.zeros(3, 9)}, r"indices \(3,\) or one-hot \(3, 10\), got \(3, 9\)"),
        ({"class_labels": torch.tensor([1, 2])}, r"indices \(3,\) or one-hot"),
        ({"class_labels": torch.zeros(3)}, r"indices \(3,\) or one-hot \(3, 10\), got \(3,\) torch.float32"),
        ({"augment_labels": torch.zeros(3, 4)}, r"augment_labels must have shape \(3, 9\)"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(changes, message):
    x, sigma, labels = batch()
    with pytest.raises(ValueError, match=message):
        tiny()(**{"x": x, "sigma": sigma, "class_labels": labels, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_resolution": 9}, "multiple of 2, got 9"),
        ({"channel_mult": []}, "0 levels"),
        ({"model_type": "UNet"}, "model_type must be one of SongUNet, DhariwalUNet, got 'UNet'"),
        ({"encoder_type": "plain"}, "encoder_type must be one of standard, skip, residual, got 'plain'"),
        ({"embedding_type": "learned"}, "embedding_type must be one of positional, fourier"),
        ({"decoder_type": "residual"}, "decoder_type must be one of standard, skip"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_an_unconditional_model_takes_no_labels_and_unknown_features_are_refused():
    x, sigma, labels = batch()
    model = tiny(label_dim=0, augment_dim=0)
    with pytest.raises(ValueError, match="unconditional"):
        model(x, sigma, labels)
    with pytest.raises(ValueError, match="augment_labels must have shape"):
        model(x, sigma, augment_labels=torch.zeros(3, 9))
    with pytest.raises(ValueError, match="at must be one of enc_last, mid_in0, bottleneck, before_up, got 'top'"):
        model.features(x, sigma, at="top")


def test_coefficients_equal_the_references_table():
    golden = Golden("edm_schedule")
    sigma = golden["in_sigma"]
    with torch.device("meta"):
        edm, vp, ve = (kind(8, 1, model_type="SongUNet", model_channels=8) for kind in CLASSES.values())
    c = edm.coefficients(sigma)
    golden.check(out_edm_c_skip=c.c_skip, out_edm_c_out=c.c_out, out_edm_c_in=c.c_in, out_edm_c_noise=c.c_noise)
    golden.check(out_vp_c_in=vp.coefficients(sigma).c_in, out_vp_c_noise=vp.coefficients(sigma).c_noise)
    golden.check(out_ve_c_noise=ve.coefficients(sigma).c_noise)
    assert (vp.sigma_min, vp.sigma_max) == (golden["out_vp_sigma_min"], golden["out_vp_sigma_max"])
