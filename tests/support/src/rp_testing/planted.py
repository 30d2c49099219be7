"""Defences that only look robust, each with what is left of it in truth: an evaluation must see through all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rp_attacks import PGD, Report, evaluate, noise, suite
from rp_attacks.backward import with_backward
from rp_attacks.defence import COPY_STRIDE
from rp_attacks.transfer import Transfer
from torch import Tensor, nn

from rp_testing.golden_file import Golden
from rp_testing.known_answers import NoisyModel, images, linear

SHAPE, EPS = (1, 6, 6), 0.12


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A defence, and what an evaluation of it must say."""

    defence: Callable[[Tensor], Tensor]
    x: Tensor
    y: Tensor
    truth: float  # the accuracy that is left in the worst case
    off: float  # by which a report may differ from it
    named: str  # the finding that says what the trick is
    attacks: Mapping[str, Any]
    fooled: PGD  # an attack that the trick stops
    stops: bool = True  # whether it does
    options: Mapping[str, Any]  # of the evaluation

    def report(self) -> Report:
        """The evaluation."""
        return evaluate(self.defence, self.x, self.y, self.attacks, seed=0, **self.options)

    def left_by_pgd(self) -> float:
        """The accuracy that the one attack would have reported."""
        return evaluate(self.defence, self.x, self.y, {"pgd": self.fooled}, seed=0, probes=0).robust_accuracy


def linear_problem(count: int = 40, *, bits: bool = False) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model of two classes, images on both sides of its robust margin, labels, and where a margin falls."""
    model, x = linear(SHAPE, 2), images(count, SHAPE, seed=3)
    if bits:
        x = (x > 0.5).float()
    weight = (model[1].weight[1] - model[1].weight[0]).detach().reshape(SHAPE)
    y = model(x).argmax(1)
    return model, x, y, torch.where(y == 0, 1.0, -1.0)[:, None, None, None] * weight


def margin_at(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """By how much the true one of two logits leads."""
    logits = model(x).detach()
    return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]


def pgd(eps: float = EPS, **options: Any) -> PGD:
    """PGD of 20 steps of a quarter of the radius, on the margin."""
    return PGD(**{"eps": eps, "step_size": eps / 4, "steps": 20, "loss": "cw", **options})


def _case(defence: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, truth: float, named: str, **rest: Any) -> Planted:
    """A deterministic defence under the quick suite, at most an image and a half above the truth."""
    usual = {
        "off": 1.5 / len(x), "attacks": suite("quick", eps=EPS, random=False, classes=2), "fooled": pgd(),
        "options": {},
    }  # fmt: skip
    return Planted(defence=defence, x=x, y=y, truth=truth, named=named, **{**usual, **rest})


def _random_case(defence: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, truth: float, named: str) -> Planted:
    """A random defence, whose 800 passes have a standard error of 0.015."""
    return _case(
        defence, x, y, truth, named, off=0.04, attacks={"pgd-eot": pgd(eot=10)}, stops=False, options={"probes": 12}
    )  # fmt: skip


def saturated_softmax() -> Planted:
    """Logits so large that the cross-entropy has no slope."""
    model, x, y, toward = linear_problem()
    truth = (margin_at(model, x + EPS * toward.sign(), y) > 0).float().mean().item()
    return _case(
        lambda z: 1e4 * model(z), x, y, truth, "saturated softmax", fooled=pgd(loss="ce", start="clean")
    )  # fmt: skip


def detached() -> Planted:
    """A forward pass that autograd does not see."""
    model, x, y, toward = linear_problem()
    truth = (margin_at(model, x + EPS * toward.sign(), y) > 0).float().mean().item()
    return _case(lambda z: model(z.detach()), x, y, truth, "no gradient")


def cut_clamp() -> Planted:
    """A clamp without a derivative at the bounds, and images of black and white pixels."""
    model, x, y, toward = linear_problem(bits=True)
    truth = (margin_at(model, (x + EPS * toward.sign()).clamp(0, 1), y) > 0).float().mean().item()

    def defence(z: Tensor) -> Tensor:
        inside = (z > 0) & (z < 1)  # whatever torch's own clamp has there
        return model(torch.where(inside, z, z.detach().clamp(0, 1)))

    return _case(defence, x, y, truth, "clamped pixels", fooled=pgd(start="clean"))


def own_rule() -> Planted:
    """Steps of 1/40, with the identity as a backward rule that no attack of the suite takes."""
    model, x, y, toward = linear_problem()

    def quantise(z: Tensor) -> Tensor:
        return (z * 40).round() / 40

    class Offered:
        gradients = ("identity",)

        def __call__(self, z: Tensor) -> Tensor:
            return model(quantise(z))

        def with_gradient(self, name: str) -> Callable[[Tensor], Tensor]:
            return lambda z: model(z + (quantise(z) - z).detach())

    # of a monotone function of each pixel the worst case is at the end of the pixel's interval
    truth = (margin_at(model, quantise(x + EPS * toward.sign()), y) > 0).float().mean().item()
    return _case(Offered(), x, y, truth, "surrogates")


def noisy() -> Planted:
    """Gaussian noise on the pixels."""
    model, x, y, toward = linear_problem()
    margin, std = margin_at(model, x + EPS * toward.sign(), y), 0.1 * toward[0].norm()
    return _random_case(NoisyModel(model, 0.1), x, y, _right(margin, std).mean().item(), "randomness")


class OnceInFive(NoisyModel):
    """Noise that comes in one pass of five alone, for each image by chance."""

    def with_noise(self, *, seed: int, index: Tensor):
        """The classifier with noise of its own for each image."""
        often, quiet = super().with_noise(seed=seed, index=index), self.model
        chance = noise.uniform((), seed=seed, purpose="whether", index=index, like=torch.zeros(1))
        return lambda z: torch.where(chance[:, None] < 0.2, often(z), quiet(z))

    def forward(self, z: Tensor) -> Tensor:
        """Logits under noise of the global generator."""
        return self.with_noise(seed=int(torch.randint(2**31, ())), index=torch.arange(len(z)))(z)


def random_once_in_five() -> Planted:
    """A layer that is random in one pass of five."""
    model, x, y, toward = linear_problem()
    margin = margin_at(model, x + EPS * toward.sign(), y)
    truth = (0.8 * (margin > 0) + 0.2 * _right(margin, 0.3 * toward[0].norm())).mean().item()
    return _random_case(OnceInFive(model, 0.3), x, y, truth, "randomness")


def optimises() -> Planted:
    """Three steps of descent from grey towards the image: 7/8 of the way, and no derivative."""
    model, x, y, toward = linear_problem()

    def purified(z: Tensor) -> Tensor:
        made = torch.full_like(z, 0.5)
        for _ in range(3):
            with torch.enable_grad():
                made.requires_grad_()
                (grad,) = torch.autograd.grad((made - z.detach()).square().sum() / 2, made)
            made = (made - 0.5 * grad).detach()
        return made

    truth = (margin_at(model, purified(x + EPS * toward.sign()), y) > 0).float().mean().item()
    return _case(lambda z: model(purified(z)), x, y, truth, "optimises at test time")


class OneStepDenoiser(NoisyModel):
    """Noise, the same in all copies of an image, then one step back towards the mean of all images."""

    def with_noise(self, *, seed: int, index: Tensor):
        """The classifier with noise of its own for each image."""
        shrink = 1 / (1 + self.sigma**2)

        def forward(z: Tensor) -> Tensor:
            draws = noise.normal(SHAPE, seed=seed, purpose="step", index=index % COPY_STRIDE, like=z)
            return self.model((z + self.sigma * draws) * shrink + 0.5 * (1 - shrink))

        return forward


def one_step_denoiser() -> Planted:
    """A denoiser of one step, whose noise an attacker may know."""
    model, x, y, toward = linear_problem()
    sigma, shrink = 0.3, 1 / 1.09
    margin = margin_at(model, (x + EPS * toward.sign()) * shrink + 0.5 * (1 - shrink), y)
    truth = _right(margin, sigma * shrink * toward[0].norm()).mean().item()
    return _random_case(OneStepDenoiser(model, sigma), x, y, truth, "known noise")


class MeanSparse(nn.Module):
    """Values less than a threshold of deviations from their channel's mean become the mean (MeanSparse, 2024)."""

    def __init__(self, channels: int, threshold: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("threshold", torch.tensor(threshold))
        self.register_buffer("flag_update_statistics", torch.tensor(0))
        self.register_buffer("batch_num", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """The sparsified values."""
        mean, std = self.running_mean[:, None, None], self.running_var.sqrt()[:, None, None]
        return torch.where((x - mean).abs() < self.threshold * std, mean, x)


def trained_network(threshold: float = 0.0) -> nn.Module:
    """The adversarially trained network on 8x8 digits of `rb_planted_masking`, MeanSparse before each SiLU."""
    layers: list[nn.Module] = [nn.Conv2d(1, 24, 3, padding=1)]
    for number in range(6):
        layers += [nn.BatchNorm2d(24), MeanSparse(24), nn.SiLU()]
        layers += [nn.Conv2d(24, 24, 3, padding=1, stride=2 if number == 2 else 1)]
    layers += [nn.BatchNorm2d(24), MeanSparse(24), nn.SiLU(), nn.Flatten(), nn.Linear(384, 10)]
    model, golden = nn.Sequential(), Golden("rb_planted_masking")
    model.add_module("n", nn.Sequential(*layers))
    model.load_state_dict({key[6:]: golden[key] for key in golden.arrays if key.startswith("state/")})
    for layer in model.modules():
        if isinstance(layer, MeanSparse):
            layer.threshold.fill_(threshold)
    return model.eval()


class Rounded(nn.Module):
    """Pixels in steps of 1/16."""

    def forward(self, x: Tensor) -> Tensor:
        """The rounded pixels."""
        return (16 * x).round() / 16


class Rolled(nn.Module):
    """The identity with a gradient that is mostly its neighbour's."""

    def forward(self, x: Tensor) -> Tensor:
        """The same values."""
        return _Rolled.apply(x)


class _Rolled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 0.1 * grad + 0.9 * grad.roll((1, 1), (2, 3))


def _masked(layer: nn.Module, truth: str, count: int = 40) -> Planted:
    """A layer before the trained network, which the finding names and an attack goes around."""
    golden, eps = Golden("rb_planted_masking"), 0.1
    network = nn.Sequential(layer, trained_network()).eval()
    around = Transfer(pgd(eps, grad="bpda", steps=40), with_backward(network, {type(layer): "identity"}))
    return _case(
        network, golden["in_x"][:count], golden["in_y"][:count], golden[truth][:count].float().mean().item(),
        "BPDA beats exact gradient", off=2.1 / count, attacks={"pgd": pgd(eps), "around": around}, fooled=pgd(eps),
        options={"probes": count},
    )  # fmt: skip


def rounding() -> Planted:
    """Pixels of an adversarially trained network in steps of 1/16."""
    return _masked(Rounded(), "out_rounding_bpda")


def wrong_gradient() -> Planted:
    """A layer of an adversarially trained network whose backward pass is not that of its forward pass."""
    return _masked(Rolled(), "out_plain_exact")


def _right(margin: Tensor, std: Tensor) -> Tensor:
    """The probability of a positive margin under Gaussian noise."""
    return torch.distributions.Normal(0, 1).cdf(margin / std)


PLANTED: dict[str, Callable[[], Planted]] = {
    "logits ten thousand times as large": saturated_softmax,
    "detached images": detached,
    "clamp without a derivative at the bounds": cut_clamp,
    "rounding that offers the identity as backward rule": own_rule,
    "Gaussian noise": noisy,
    "rounding, adversarially trained network": rounding,
    "wrong gradient, adversarially trained network": wrong_gradient,
    "layer that is random once in five": random_once_in_five,
    "optimisation at test time": optimises,
    "one-step denoiser": one_step_denoiser,
}
"""Ten of them."""
