"""Noise of a random defence and of an attack: what each image draws, in every query of every attack."""

import pytest
import torch
from rp_attacks import APGD, PGD, SPSA, CarliniWagner, DeepFool, RayS, Square
from rp_attacks.defence import COPY_STRIDE
from rp_attacks.norms import NORMS, size, unit
from rp_attacks.presets import OnMeanLogits
from torch import Tensor

from .models import images, linear

EPS = 0.02
INDEX = torch.tensor([8, 2, 5])
ATTACKS = {
    "pgd": PGD(eps=EPS, steps=3, eot=3, eot_chunk=2, restarts=2),
    "pgd-best": PGD(eps=EPS, steps=3, restarts=2, select="best", early_stop=True),
    "pgd-kl": PGD(eps=EPS, steps=2, loss="kl", start="gaussian"),
    "apgd": APGD(eps=EPS, steps=4, eot=2, restarts=2),
    "apgd-targeted": APGD(eps=EPS, steps=3, loss="targeted-dlr", targets=2),
    "square": Square(eps=EPS, queries=6, passes=2),
    "rays": RayS(eps=EPS, queries=12, passes=2),
    "spsa": SPSA(eps=EPS, steps=2, samples=3),
    "cw": CarliniWagner(eps=EPS, search_steps=2, steps=3, eot=2),
    "deepfool": DeepFool(eps=EPS, steps=3, eot=2),
    "mean": OnMeanLogits(PGD(eps=EPS, steps=2), passes=3),
}


class Probe:
    """A defence that no attack breaks, and that writes down the (seed, index) of each row that it is asked about."""

    def __init__(self) -> None:
        model = linear((1, 4, 4), 5)
        self.model = lambda x: model(x) + torch.tensor([50.0, 0, 0, 0, 0])
        self.seen: list[tuple[int, int]] = []
        self.asked: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        raise AssertionError("asked without saying which noise")

    def with_noise(self, *, seed: int, index: Tensor):
        def forward(x: Tensor) -> Tensor:
            assert len(index) == len(x)
            self.seen += [(seed, row) for row in index.tolist()]
            self.asked.append(x.detach().clone())
            return self.model(x)

        return forward


def record(attack, seed: int = 0) -> Probe:
    probe, x = Probe(), images(3)
    attack(probe, x, torch.zeros(3, dtype=torch.int64), seed=seed, index=INDEX)
    return probe


@pytest.mark.parametrize("name", ATTACKS)
def test_every_query_of_every_image_draws_its_own_noise(name: str) -> None:
    seen = record(ATTACKS[name]).seen
    assert {row % COPY_STRIDE for _, row in seen} == set(INDEX.tolist())
    if name == "spsa":  # the two ends of a difference see one noise, and nothing else does
        pairs = [pair for pair in set(seen) if seen.count(pair) == 2]
        assert len(pairs) == 2 * 3 * 3  # steps, samples, images
        assert len(set(seen)) == len(seen) - len(pairs)
    elif name == "mean":  # the backward pass replays the passes of the forward pass
        assert all(seen.count(pair) == 2 for pair in seen)
    else:
        assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("name", ATTACKS)
def test_another_seed_draws_other_noise_throughout(name: str) -> None:
    first, second, again = (record(ATTACKS[name], seed) for seed in (0, 1, 0))
    assert set(first.seen).isdisjoint(second.seen)
    assert first.seen == again.seen
    assert all(torch.equal(a, b) for a, b in zip(first.asked, again.asked, strict=True))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", [PGD, APGD])
def test_random_starts_differ_by_seed_restart_and_image(kind, norm: str) -> None:
    select = {"select": "best"} if kind is PGD else {}
    attack = kind(eps=2.0 if norm == "l1" else 0.1, norm=norm, steps=1, restarts=3, **select)
    # each restart asks at its start and after its one step
    starts = [start - images(3) for seed in (0, 1) for start in record(attack, seed).asked[::2]]
    assert len(starts) == 6
    directions = unit(torch.cat(starts), "l2").flatten(1)
    cosine = directions @ directions.T - torch.eye(18)
    assert cosine.abs().max() < 0.95  # of 18 unrelated directions of 16 coordinates


def test_starts_are_where_they_are_documented() -> None:
    x, index = images(20, margin=0.0), torch.arange(20)  # many near the bounds
    for norm in NORMS:
        start = APGD(eps=0.5, norm=norm).first(x, 3, index)
        assert start.min() >= 0
        assert start.max() <= 1
        if norm == "l1":  # projected on ball and box together: on the sphere, and sparse
            torch.testing.assert_close(size(start - x, "l1"), torch.full((20,), 0.5), rtol=1e-5, atol=0)
            assert ((start != x).flatten(1).sum(dim=1) < 16).all()
    from rp_attacks import noise

    draw = noise.normal(x.shape[1:], seed=3, purpose="start", index=index, like=x)
    expected = (x + 0.001 * draw).clamp(0, 1)
    torch.testing.assert_close(PGD(eps=0.1, start="gaussian")._first(x, 3, index), expected, rtol=0, atol=0)


@pytest.mark.parametrize("attack", [ATTACKS["square"], ATTACKS["spsa"], ATTACKS["rays"]])
def test_random_searches_differ_by_seed_from_the_first_image_on(attack) -> None:
    first, second = record(attack, 0).asked, record(attack, 1).asked
    differ = [not torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(first, second, strict=True)]
    if isinstance(attack, RayS):  # deterministic but for the defence
        assert not any(differ)
    elif isinstance(attack, Square):  # the stripes in two passes, then the squares
        assert differ[0]
        assert any(differ[2:])
    else:
        assert differ[1]  # the first estimate; before it stands the clean image
    squares = record(Square(eps=EPS, queries=2)).asked
    assert len({tuple((squares[0] - images(3))[row].sign().flatten().tolist()) for row in range(3)}) > 1


def test_published_radii_are_the_defaults() -> None:
    assert {PGD().eps, APGD().eps, Square().eps, SPSA().eps, RayS().eps} == {8 / 255}
    assert {CarliniWagner().eps, DeepFool().eps} == {0.5}


@pytest.mark.parametrize("name", ["square", "rays", "spsa"])
def test_searches_without_gradients_build_no_graph(name: str) -> None:
    model, x = linear((1, 4, 4), 5), images(3)

    def watched(z: Tensor) -> Tensor:
        logits = model(z)
        assert not logits.requires_grad
        return logits

    ATTACKS[name](watched, x, model(x).argmax(1), seed=0)
