"""How long one step of MAE-Pure takes against the plain loop, and how much memory a curved backward pass needs.

The plain loop is what one writes first: softmax(Q K^T) V spelled out, and `loss.backward()`, which fills the gradients
of all weights. All loops run in turn on the same weights, images and masks, in one process; a ratio is that of two
neighbours. On a CPU that others use too, look at `cpu_ratio`, the ratio of processor time.

    python mae_pure_step.py [--smoke] [--pairs N] [--json FILE]
    python mae_pure_step.py --device cuda --bf16 --compile     Table 10 of the paper: batch 32, 150 steps, 18.25 s
"""

import argparse
import copy
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_models import noise
from rp_models.mask import random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.networks.transformer import Attention
from rp_purify import MAEPure
from torch import Tensor

BATCH, MASK_RATE, STEPS = 32, 0.25, 150
PAPER_SECONDS = 18.25  # Table 10, CIFAR-10 on an A40

Clock = tuple[float, float]  # seconds on the wall, and of processor time


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the digits' model, two pairs, a few steps")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of is not None:
        print(json.dumps(curved_pass(args.memory_of)))
        return
    name = "mae-digits" if args.smoke else "mae-vit-base-p4-32"
    mae = rp_models.build(name).to(args.device).eval()
    result: dict[str, Any] = {"model": name, "batch": BATCH, "mask_rate": MASK_RATE, **machine(args)}
    result |= compare(loops(mae, args), 2 if args.smoke else args.pairs, args.device)
    result |= agreement(mae, args.device)
    if args.device != "cpu":
        result |= table_10(mae, args)
    result["memory"] = {steps: measured_apart(steps) for steps in ((2, 4) if args.smoke else (10, STEPS))}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    device = torch.cuda.get_device_name() if args.device != "cpu" else platform.processor() or platform.machine()
    settings = {"bf16": args.bf16, "compile": args.compile}
    return {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads(), **settings}


def images_of(mae: MaskedAutoencoder, device: str, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Random images and their indices."""
    channels, size = mae.patch_embed.in_channels, mae.patch_embed.image_size
    x = torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))
    return x.to(device), torch.arange(batch, device=device)


def subject_of(mae: MaskedAutoencoder, args: argparse.Namespace) -> MAEPure:
    """MAE-Pure on these weights; the model that the plain loop uses stays as it is written."""
    shared = copy.copy(mae)
    if args.compile:
        shared.loss = torch.compile(mae.loss)  # type: ignore[method-assign]
    return MAEPure(shared, steps=STEPS, mask_rate=MASK_RATE)


def plain_gradient(mae: MaskedAutoencoder, x: Tensor, index: Tensor) -> Tensor:
    """The gradient of the first step as one writes it first."""
    values = noise.uniform((mae.tokens,), seed=0, purpose="mask 0 of step 1", index=index)
    leaf = x.clone().requires_grad_()
    with attention_spelled_out():
        mae.loss(leaf, random_mask(values, MASK_RATE)).sum().backward()
    mae.zero_grad(set_to_none=True)
    assert leaf.grad is not None
    return leaf.grad


def loops(mae: MaskedAutoencoder, args: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    """One step of each loop; the last is the one that the others are compared with."""
    (x, index), purifier = images_of(mae, args.device), subject_of(mae, args)

    def ours() -> Tensor:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            return purifier.loss_gradient(x, seed=0, index=index, step=1)

    def without_onednn() -> Tensor:
        with onednn_off():
            return ours()

    on_cpu = {"ours, linear layers in MKL": without_onednn} if args.device == "cpu" else {}
    return {"ours": ours, **on_cpu, "plain": lambda: plain_gradient(mae, x, index)}


def compare(loops: dict[str, Callable[[], Tensor]], pairs: int, device: str) -> dict[str, Any]:
    """Seconds of a step of each loop, and the ratios to the plain one."""
    times: dict[str, list[Clock]] = {title: [] for title in loops}
    for turn in range(pairs + 1):
        for title, loop in loops.items():
            seconds = timed(loop, device)
            if turn > 0:  # the first turn warms up
                times[title].append(seconds)
    plain = times["plain"]
    result: dict[str, Any] = {title: {} for title in loops}
    for title, clocks in times.items():
        result[title]["seconds"] = statistics.median(wall for wall, _ in clocks)
        if title != "plain":
            for kind, name in enumerate(("ratio", "cpu_ratio")):
                ratios = [mine[kind] / theirs[kind] for mine, theirs in zip(clocks, plain, strict=True)]
                result[title][name] = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {"one_step": result}


def agreement(mae: MaskedAutoencoder, device: str) -> dict[str, Any]:
    """How far our gradient is from the plain loop's, in float32 on 4 images: the sign is all that a step takes."""
    x, index = images_of(mae, device, 4)
    ours = MAEPure(mae, mask_rate=MASK_RATE).loss_gradient(x, seed=0, index=index, step=1)
    plain = plain_gradient(mae, x, index)
    largest = float((ours - plain).abs().max() / plain.abs().max())
    return {"largest_difference": largest, "equal_signs": float((ours.sign() == plain.sign()).double().mean())}


def table_10(mae: MaskedAutoencoder, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of whole purifications of one batch, the best of three after one that warms up."""
    (x, index), purifier = images_of(mae, args.device), subject_of(mae, args)

    def purify() -> Tensor:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            return purifier(x, seed=0, index=index)

    seconds = [timed(purify, args.device)[0] for _ in range(4)][1:]
    return {"purification_seconds": min(seconds), "steps": STEPS, "paper_seconds_on_an_a40": PAPER_SECONDS}


@contextmanager
def attention_spelled_out() -> Iterator[None]:
    """Attention without the fused kernel."""

    def forward(self: Attention, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))

    fused, Attention.forward = Attention.forward, forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        Attention.forward = fused  # type: ignore[method-assign]


@contextmanager
def onednn_off() -> Iterator[None]:
    """Torch's switch."""
    before, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def timed(function: Callable[[], Tensor], device: str) -> Clock:
    """Seconds of one call."""
    if device != "cpu":
        torch.cuda.synchronize()
    start, used = time.perf_counter(), time.process_time()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - used


def measured_apart(steps: int) -> dict[str, float]:
    """`curved_pass` in a process of its own, whose peak memory is then its own."""
    command = [sys.executable, __file__, "--memory-of", str(steps)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def curved_pass(steps: int) -> dict[str, float]:
    """Peak memory above that of two steps, of a forward and backward pass with grad="ste-tanh", 64 digits."""
    mae = rp_models.build("mae-digits").eval()
    x = torch.rand(64, 1, 8, 8).requires_grad_()
    MAEPure(mae, steps=2, grad="ste-tanh")(x, seed=0).sum().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    MAEPure(mae, steps=steps, grad="ste-tanh")(x, seed=0).sum().backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"growth_mib": (after - before) / 1024, "images_mib": steps * x.nbytes / 2**20}


if __name__ == "__main__":
    main()
