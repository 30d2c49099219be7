"""The Fréchet distance names its network; over Inception's features, and only there, it is the FID."""

import sys
from types import ModuleType

import pytest
import torch
from rp_experiments.feature_distance import INCEPTION, FeatureJudge
from rp_experiments.recipes.generate import Generation
from rp_experiments.run import Run
from rp_models.checkpoint import CheckpointError
from rp_models.data import describe, load_images
from rp_models.training import RunFolder


@pytest.fixture
def torch_fidelity(monkeypatch):
    """A stand-in that takes what the real one takes: bytes of three channels; its features are the mean colours."""

    class Extractor(torch.nn.Module):
        def __init__(self, name, features):
            super().__init__()
            assert (name, features) == ("inception-v3-compat", ["2048"])

        def forward(self, x):
            assert x.dtype == torch.uint8
            assert x.shape[1] == 3
            return (x.float().mean(dim=(2, 3)),)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def judge(name, tmp_path):
    config = Generation(data="digits", frechet_images=200)
    return FeatureJudge(name, config, describe("digits"), Run(folder=RunFolder(tmp_path)))


def test_the_fid_is_that_of_inceptions_features_alone(torch_fidelity, tmp_path):
    images, _ = load_images("digits", "test").batch(slice(0, 200))
    for name, features in ((INCEPTION, 3), ("mae-digits", 48)):
        found = judge(name, tmp_path)
        found.take((images * 255).round().byte())
        report = found.report()
        assert (report["network"], report["features"], report["images"]) == (name, features, 200)
        assert report["frechet"] > 0
        assert ("fid" in report) == (name == INCEPTION)


def test_without_the_extra_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(CheckpointError, match=r"rp-experiments\[fid\]"):
        judge(INCEPTION, tmp_path)
