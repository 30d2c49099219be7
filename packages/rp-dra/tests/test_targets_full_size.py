"""The released sizes, on networks without weights: what fits together, and what alignment costs a training step."""

import pytest
import torch
from rp_dra import Trades
from rp_dra.targets import EdmTarget, LightningDitTarget
from rp_models import build
from rp_models.networks.lightningdit import MASSIVE_CHANNELS
from rp_models.networks.vae import LatentNormalization
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):
    """Sums torch's own FLOP formulas; its FlopCounterMode cannot watch `autograd.grad` of an input."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(work):
    with Counter() as counter:
        work()
    return counter.total


@pytest.fixture(scope="module")
def ratio():
    """FLOPs of one EDM representation over those of a TRADES-10 step (attack, two passes, backward), per image."""
    with torch.device("meta"):
        classifier = build("wrn-28-10-swish").train()
        target = EdmTarget(build("edm-cifar10-cond-vp"))
        x, y = torch.empty(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)

    def step(attack_steps):
        return flops(lambda: Trades(steps=attack_steps)(classifier, x, y, start_noise=x).loss.backward())

    one, two = step(1), step(2)
    ten = one + 9 * (two - one)  # every step of the attack is the same pass
    return flops(lambda: target(x, y, noise=x)) / ten


def test_one_representation_adds_a_twentieth_to_a_trades_step(ratio):
    assert ratio == pytest.approx(0.0498, abs=0.0005)


def test_two_representations_stay_below_fifteen_percent(ratio):
    assert 2 * ratio < 0.15


def test_nothing_behind_the_bottleneck_is_computed():
    with torch.device("meta"):
        denoiser = build("edm-cifar10-cond-vp").eval()
        x, y = torch.empty(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)
    whole = flops(lambda: denoiser(x, torch.ones(1, device="meta"), y))
    assert flops(lambda: EdmTarget(denoiser)(x, y, noise=x)) < 0.4 * whole


def test_the_released_sizes_fit_together():
    with torch.device("meta"):
        target = LightningDitTarget(
            build("lightningdit-xl-1"), build("vavae-f16d32"), LatentNormalization(), random_level=True
        )
        x, y = torch.empty(2, 3, 256, 256), torch.zeros(2, dtype=torch.int64)
        eps, level = torch.empty(2, *target.noise_shape((3, 256, 256))), torch.empty(2)
    target = target.to("meta")  # the position tables are computed, wherever the weights are
    assert target.image_size == 256
    assert target.zero_channels == MASSIVE_CHANNELS == (1053, 259)
    assert target.noise_shape((3, 224, 224)) == (32, 16, 16)
    assert target(x, y, noise=eps).shape == target(x, None, noise=eps, level=level).shape == (2, 1152)
    assert target.width(3, 256) == 1152
