"""The images that the figures of the MAE-Pure paper look at."""

from dataclasses import replace

import torch
from rp_attacks import AutoAttack
from rp_experiments.perturbed_images import PerturbedImages
from rp_experiments.recipes.analyze_purifier import RECIPES
from rp_models import noise
from rp_models.data import load_images


def test_the_attack_of_the_figures_may_be_autoattack() -> None:
    images, index = load_images("digits", "test"), torch.arange(6)
    x, y = images.batch(index)
    torch.manual_seed(0)
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    y = classifier(x).argmax(dim=1)  # all are right at first
    config = replace(RECIPES["smoke"](), attack="autoattack")
    found = PerturbedImages(classifier, x, y, index, config)
    attacked, seed = found.attacked(0.1), noise.derive_seed(config.seed, "attack")
    assert torch.equal(attacked, AutoAttack(eps=0.1, batch_size=64)(classifier, x, y, seed=seed, index=index))
    fooled = classifier(attacked).argmax(dim=1) != y
    assert fooled.any()
    assert torch.equal(attacked[~fooled], x[~fooled])
    weak = found.attacked(0.1, steps=1)  # Theorem 3.2's weaker attacks stay PGD
    assert torch.equal(weak, PerturbedImages(classifier, x, y, index, RECIPES["smoke"]()).attacked(0.1, steps=1))
    assert not torch.equal(weak, attacked)
