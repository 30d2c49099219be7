"""A classifier from other people's code is trained as one of the zoo is."""

from rp_dra import ClassifierSettings
from rp_dra.classifier import build_classifier, feature_width
from rp_models.data import describe

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, num_classes)

    def forward_features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.forward_features(x))
"""


def test_a_foreign_classifier_gets_the_arguments_that_it_takes(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    settings = ClassifierSettings(network=f"{tmp_path / 'net.py'}:Net", width=6)
    model = build_classifier(settings, describe("digits"))
    assert feature_width(model) == 6
    assert (model.body[0].in_channels, model.head.out_features) == (1, 10)
