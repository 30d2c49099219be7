"""A whole DM-AT training step (TRADES, 10 steps) against the plain loop that it replaces, in turns in one process.

    python packages/rp-dra/benchmarks/trades_step.py [--batch 64] [--rounds 5] [--smoke]
    python packages/rp-dra/benchmarks/trades_step.py --checkout FOLDER     # a checkout of DM-Improves-AT as well
    python packages/rp-dra/benchmarks/trades_step.py --gpu                 # WRN-28-10, bf16, compiled; share of peak

The plain loop is the published algorithm written down as one would: planar memory layout, the natural prediction with
a graph that is thrown away, an attack out of separate operations, figures read one by one, an average parameter by
parameter. It computes the same losses (checked at the start, from the same images and starts). On a CPU the processor
time counts, which other work on the machine disturbs least; on a GPU the time between two synchronisations.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from rp_dra import ClassifierSettings, ClassifierTrainer, EdmTarget, TrainingSettings, objective_of
from rp_models import build, noise
from rp_models.data import ImageSet, describe
from rp_models.settings import ComputeSettings
from rp_models.training.optimizer import decay_groups
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

PASSES = 27  # forward passes that a step costs: 1, 10 attack steps of 2, and 2 forward passes with full backward passes


def images(count: int, device: torch.device) -> ImageSet:
    """Noise in the place of CIFAR-10."""
    index = torch.arange(count, device=device)
    pixels = noise.integers(256, (3, 32, 32), seed=0, purpose="images", index=index).to(torch.uint8)
    return ImageSet(pixels, index % 10, describe("cifar10"))


def our_trainer(network: dict[str, int], batch: int, device: torch.device, **compute: object) -> ClassifierTrainer:
    """This project's trainer with DM-AT's settings."""
    training = TrainingSettings(batch_size=batch)
    return ClassifierTrainer(
        ClassifierSettings(depth=network["depth"], width=network["width"]),
        training,
        images(4 * batch, device),
        objective=objective_of(training),
        compute=ComputeSettings(**compute),  # type: ignore[arg-type]
        seed=0,
    )


class PlainLoop:
    """The published step as a straightforward loop.

    Args:
        model: images in [0, 1] to logits.
        batches: images and labels by step.
    """

    def __init__(self, model: nn.Module, batches: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self.model, self.batches = model.train(), batches
        self.average = copy.deepcopy(model).eval()
        groups = decay_groups(model, 5e-4, without_decay=lambda name, _: "batchnorm" in name)
        self.optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True)

    def step(self, number: int, start: Tensor | None = None) -> dict[str, float]:
        """One step; `start` replaces the random start of the attack."""
        x, y = self.batches(number)
        self._track(False)
        x_adv = self._attack(x, start)
        self._track(True)
        self.optimizer.zero_grad()
        logits = self.model(x)
        logits_adv = self.model(x_adv)
        natural = F.cross_entropy(logits, y, label_smoothing=0.1)
        robust = F.kl_div(F.log_softmax(logits_adv, dim=1), F.softmax(logits, dim=1), reduction="batchmean")
        loss = natural + 5.0 * robust
        loss.backward()
        self.optimizer.step()
        self._average()
        right, resisting = ((z.argmax(dim=1) == y).float().mean().item() for z in (logits, logits_adv))
        return {"loss": loss.item(), "accuracy": right, "robust_accuracy": resisting}

    def _attack(self, x: Tensor, start: Tensor | None) -> Tensor:
        eps, size = 8 / 255, 2 / 255
        x_adv = x + torch.empty_like(x).uniform_(-eps, eps) if start is None else start
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
        p = F.softmax(self.model(x), dim=1).detach()
        for _ in range(10):
            x_adv.requires_grad_()
            loss = F.kl_div(F.log_softmax(self.model(x_adv), dim=1), p, reduction="batchmean")
            (grad,) = torch.autograd.grad(loss, [x_adv])
            x_adv = x_adv.detach() + size * torch.sign(grad)
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps)
            x_adv = torch.clamp(x_adv, 0.0, 1.0)
        return x_adv

    def _track(self, on: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = on

    @torch.no_grad()
    def _average(self) -> None:
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.data = 0.995 * kept.data + 0.005 * new.data


class Checkout:
    """The public trainer's own step: its network, its loss, its average; from a checkout of DM-Improves-AT.

    Args:
        folder: of the checkout.
        network: depth and width.
        batches: images and labels by step.
    """

    def __init__(self, folder: str, network: dict[str, int], batches: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        trades, wideresnet, watrain = _public_modules(folder)
        self.trades_loss, self.ema_update, self.batches = trades.trades_loss, watrain.ema_update, batches
        sizes = {"depth": network["depth"], "width": network["width"], "activation_fn": nn.SiLU}
        self.model = wideresnet.WideResNet(num_classes=10, **sizes).train()
        self.average = copy.deepcopy(self.model).eval()
        groups = decay_groups(self.model, 5e-4, without_decay=lambda name, _: "batchnorm" in name)
        self.optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True)

    def step(self, number: int) -> None:
        """One step as the public trainer makes it."""
        x, y = self.batches(number)
        loss, _ = self.trades_loss(
            self.model, x, y, self.optimizer, step_size=2 / 255, epsilon=8 / 255, perturb_steps=10, beta=5.0
        )
        loss.backward()
        self.optimizer.step()
        self.ema_update(self.average, self.model, 1000, decay_rate=0.995, warmup_steps=0, dynamic_decay=True)


def _public_modules(folder: str):  # type: ignore[no-untyped-def]
    """The public trainer's modules; what its package imports beside them and a step does not need is left out."""
    import importlib
    import sys
    import types

    sys.path.insert(0, folder)
    for name in ("pandas", "autoattack", "core.data", "core.attacks", "core.models.ti_wideresnetwithswish"):
        stub = types.ModuleType(name)
        stub.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
        stub.__path__ = []
        sys.modules[name] = stub
    Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    names = ("gowal21uncovering.utils.trades", "core.models.wideresnetwithswish", "gowal21uncovering.utils.watrain")
    return [importlib.import_module(name) for name in names]


def same_losses(ours: ClassifierTrainer, plain: PlainLoop) -> None:
    """Stop if the two do not compute one step alike: from the same weights, images and start."""
    plain.model.load_state_dict(ours.model.state_dict())
    x, _, draw = ours.batches.part(0)
    uniform = noise.uniform(x.shape[1:], seed=ours.seed, purpose="attack start", index=draw)
    theirs = plain.step(0, (x + 8 / 255 * (2 * uniform - 1)).clamp(0, 1))["loss"]
    own = ours.step(0)["loss"]
    assert abs(own - theirs) < 1e-3, f"the two steps differ: {own} and {theirs}"


def alternate(
    calls: dict[str, Callable[[int], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each call in each round; they take turns, and the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name in sorted(calls, key=lambda name: (list(calls).index(name) + number) % len(calls)):
            start = clock()
            calls[name](number)
            if number:
                seconds[name].append(clock() - start)
    return seconds


def report(seconds: dict[str, list[float]], batch: int, reference: str, flops: float = 0.0, peak: float = 0.0) -> None:
    """Print a line for each: median seconds, images a second, ratio to the reference, share of the device's peak."""
    print(f"{'step':44}{'s':>8}{'images/s':>10}{'ratio':>8}" + (f"{'TFLOP/s':>10}{'of peak':>9}" if flops else ""))
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = statistics.median(a / b for a, b in zip(values, seconds[reference], strict=True))
        line = f"{name:44}{median:8.3f}{batch / median:10.1f}{ratio:8.2f}"
        if flops:
            rate = flops * batch / median / 1e12
            line += f"{rate:10.1f}{rate / peak:9.1%}"
        print(line)


def forward_flops(model: nn.Module) -> float:
    """Operations of one image's forward pass, two for each multiplication with addition."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32, device="meta"))
    return float(counter.get_total_flops())


def alignment_share() -> float:
    """What the CIFAR-10 EDM target and the head add to a WRN-28-10 step, in operations."""
    with torch.device("meta"):
        classifier, denoiser = build("wrn-28-10-swish"), build("edm-cifar10-cond-vp")
        head = nn.Sequential(nn.Linear(640, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 256))
    target = EdmTarget(denoiser)
    x = torch.zeros(1, 3, 32, 32, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        target(x, torch.zeros(1, dtype=torch.int64, device="meta"), noise=x)
    weights = sum(parameter.numel() for parameter in head.parameters() if parameter.dim() == 2)
    return (counter.get_total_flops() + 3 * 2 * weights) / (PASSES * forward_flops(classifier))


def on_cpu(batch: int, rounds: int, network: dict[str, int], checkout: str | None) -> None:
    """WRN-16-2 on the CPU."""
    device = torch.device("cpu")
    ours = our_trainer(network, batch, device)
    plain = PlainLoop(copy.deepcopy(ours.model), lambda step: ours.batches.part(step)[:2])
    same_losses(ours, plain)
    fast = our_trainer(network, batch, device, channels_last=True)
    half = our_trainer(network, batch, device, channels_last=True, precision="bf16")
    calls: dict[str, Callable[[int], object]] = {"plain loop": plain.step}
    if checkout:
        calls["DM-Improves-AT's own step"] = Checkout(checkout, network, lambda step: ours.batches.part(step)[:2]).step
    calls |= {
        "ClassifierTrainer": ours.step,
        "ClassifierTrainer, channels_last": fast.step,
        "ClassifierTrainer, channels_last, bf16": half.step,
    }
    print(
        f"WRN-{network['depth']}-{network['width']}, batch {batch}, {torch.get_num_threads()} thread(s), processor time"
    )
    reference = list(calls)[1] if checkout else "plain loop"
    report(alternate(calls, rounds, time.process_time), batch, reference)
    print(f"alignment with the CIFAR-10 EDM adds {alignment_share():.1%} to a WRN-28-10 step, in operations")


def on_gpu(batch: int, rounds: int, network: dict[str, int], peak: float) -> None:
    """WRN-28-10 on a GPU: the plain float32 loop against bf16, channels_last and torch.compile."""
    device = torch.device("cuda")

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    first = our_trainer(network, batch, device)
    plain = PlainLoop(copy.deepcopy(first.model), lambda step: first.batches.part(step)[:2])
    calls: dict[str, Callable[[int], object]] = {"plain loop, float32": plain.step, "float32": first.step}
    for name, compute in {
        "bf16, channels_last": {"precision": "bf16", "channels_last": True},
        "bf16, channels_last, compiled": {"precision": "bf16", "channels_last": True, "compile": True},
    }.items():
        calls[name] = our_trainer(network, batch, device, **compute).step
    with torch.device("meta"):
        flops = PASSES * forward_flops(build("dm-wide-resnet", **network))
    print(f"WRN-{network['depth']}-{network['width']}, batch {batch}, {torch.cuda.get_device_name()}")
    report(alternate(calls, rounds, clock), batch, "plain loop, float32", flops, peak)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="images in a step; 64, on a GPU 512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkout", help="folder of a checkout of DM-Improves-AT, for measuring only")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the GPU in bf16, without sparsity")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, one round")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = {"depth": 10, "width": 1} if options.smoke else {"depth": 28, "width": 10} if options.gpu else {}
    network = network or {"depth": 16, "width": 2}
    rounds = 1 if options.smoke else options.rounds
    if options.gpu:
        on_gpu(options.batch or 512, rounds, network, options.peak)
    else:
        on_cpu(options.batch or (4 if options.smoke else 64), rounds, network, options.checkout)


if __name__ == "__main__":
    main()
