"""What is measured on features and images."""

import torch

from tests.gpu_cases.case import Step, batch, case


def _features(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(200, 16, generator=g).to(device), torch.randn(200, 24, generator=g).to(device)


@case("analysis/cknna")
def _(device: str) -> Step:
    from rp_analysis import cknna

    a, b = _features(device)
    return lambda number: cknna(a, b)


@case("analysis/cka")
def _(device: str) -> Step:
    from rp_analysis import cka

    a, b = _features(device)
    return lambda number: cka(a, b, unbiased=True)


@case("analysis/alignment and uniformity")
def _(device: str) -> Step:
    from rp_analysis import alignment_score, uniformity_score

    a, _ = _features(device)
    return lambda number: (alignment_score(a, a + 0.1), uniformity_score(a))


@case("analysis/sae train step")
def _(device: str) -> Step:
    from rp_analysis import SaeConfig
    from rp_analysis.sae_training import SaeTrainer

    a, _ = _features(device)
    trainer = SaeTrainer(a, SaeConfig(k=4, batch=100, epochs=50))
    return lambda number: trainer.train(steps=1)


@case("analysis/dimension")
def _(device: str) -> Step:
    from rp_analysis import classification_dimension

    a, _ = _features(device)
    y = (torch.arange(200) % 10).to(device)
    w = torch.randn(10, 16, generator=torch.Generator().manual_seed(1)).to(device)
    return lambda number: classification_dimension(a, y, w, adversarial=a + 0.1)


@case("analysis/frequency")
def _(device: str) -> Step:
    from rp_analysis import frequency_map, radial_profile

    x, _ = batch(device)
    return lambda number: (
        radial_profile(frequency_map(x)),
        radial_profile(frequency_map(x, transform="dct"), transform="dct"),
    )


@case("analysis/frechet")
def _(device: str) -> Step:
    from rp_analysis import GaussianMoments

    a, _ = _features(device)

    def step(number: int) -> float:
        one, two = GaussianMoments(), GaussianMoments()
        one.update(a), two.update(a + 0.1)
        return one.distance(two)

    return step
