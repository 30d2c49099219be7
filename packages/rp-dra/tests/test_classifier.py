"""The classifier to train: any network of the zoo, for any data set, fresh or pre-trained."""

import pytest
import rp_models
import torch
from rp_dra import ClassifierSettings, build_classifier
from rp_dra.classifier import feature_width
from rp_models.checkpoint import CheckpointError
from rp_models.data import describe

DIGITS = describe("digits")


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        (ClassifierSettings(depth=10, width=1), 64),
        (ClassifierSettings(network="wide-resnet", depth=10, width=2), 128),
        (ClassifierSettings(network="vit-digits", depth=1, width=16, arguments={"heads": 2}), 16),
        (ClassifierSettings(network="preact-resnet18"), 512),
    ],
)
def test_a_network_is_fitted_to_the_data_set(settings, width):
    model = build_classifier(settings, DIGITS).eval()
    x = torch.rand(2, 1, 8, 8)
    assert model(x).shape == (2, 10)
    assert feature_width(model) == width
    torch.testing.assert_close(model.head(model.forward_features(x)), model(x))


def test_normalisation_is_inside_and_checkpoints_carry_all_arguments(tmp_path):
    model = build_classifier(ClassifierSettings(depth=10, width=1), DIGITS).eval()
    rp_models.save(model, tmp_path / "m.safetensors")
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(rp_models.load(tmp_path / "m.safetensors")(x), model(x))
    assert model.recipe.arguments["mean"] == list(DIGITS.mean)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_pretrained_weights_fill_all_but_the_last_layer(tmp_path, suffix):
    source = rp_models.build("vit-digits", depth=1, num_classes=3)
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(source.state_dict(), path)
    elif suffix == ".pth":
        torch.save({"net": {f"module._orig_mod.{k}": v for k, v in source.state_dict().items()}, "epoch": 3}, path)
    else:
        rp_models.save(source, path)
    made = build_classifier(ClassifierSettings(network="vit-digits", depth=1, pretrained=str(path)), DIGITS)
    for name, value in made.state_dict().items():
        same = value.shape == source.state_dict()[name].shape and torch.equal(value, source.state_dict()[name])
        assert same != name.startswith("head.")


def test_what_cannot_be_built_is_said_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="did you mean"):
        build_classifier(ClassifierSettings(network="wrn-28-10-swich"), DIGITS)
    with pytest.raises(ValueError, match="unexpected keyword"):
        build_classifier(ClassifierSettings(network="vit-digits", activation="relu"), DIGITS)
    with pytest.raises(ValueError, match="is no classifier"):
        build_classifier(ClassifierSettings(network="mae-digits"), DIGITS)
    with pytest.raises(CheckpointError, match="no file /nowhere"):
        build_classifier(ClassifierSettings(depth=10, width=1, pretrained="/nowhere"), DIGITS)
    with pytest.raises(CheckpointError, match="is for timm's networks"):
        build_classifier(ClassifierSettings(depth=10, width=1, pretrained="timm"), DIGITS)
    other = tmp_path / "other.safetensors"
    rp_models.save(rp_models.build("dm-wide-resnet", depth=16, width=1), other)
    with pytest.raises(CheckpointError, match="does not fit"):
        build_classifier(ClassifierSettings(depth=10, width=1, pretrained=str(other)), DIGITS)


def test_weights_that_timm_cannot_download_are_named(monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to the hub")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    settings = ClassifierSettings(network="timm", arguments={"model": "resnet10t.c3_in1k"}, pretrained="timm")
    with pytest.raises(CheckpointError, match=r"resnet10t\.c3_in1k cannot be downloaded \(no route to the hub\)"):
        build_classifier(settings, describe("cifar10"))
