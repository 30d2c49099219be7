"""How long one step of MAE-Pure takes against the plain loop, and how much memory a curved backward pass needs.

The plain loop is what one writes first: softmax(Q K^T) V spelled out, and `loss.backward()`, which fills the gradients
of all weights. Both run on the same weights, images and masks, in turn; the ratio is that of each pair. On a CPU that
others use too, look at `cpu_ratio`, the ratio of processor time.

    python mae_pure_step.py [--smoke] [--pairs N] [--onednn] [--device cuda --bf16 --compile] [--json FILE]
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
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import rp_models
import torch
from rp_models import noise
from rp_models.mask import random_mask
from rp_models.transformer import Attention
from rp_purify import MAEPure, onednn_linear
from torch import Tensor


def main() -> None:
    """Run the parts that were asked for and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the digits' model, two pairs, a few steps")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--onednn", action="store_true", help="linear layers in oneDNN (AMD processors)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of is not None:
        print(json.dumps(curved_pass(args.memory_of)))
        return
    name = "mae-digits" if args.smoke else "mae-vit-base-p4-32"
    result = {"model": name, "device": args.device, "torch": torch.__version__, "threads": torch.get_num_threads()}
    result |= {"machine": platform.processor() or platform.machine(), "bf16": args.bf16, "compile": args.compile}
    result["onednn"] = args.onednn
    result |= compare(name, args)
    result["memory"] = {steps: measured_apart(steps) for steps in ((2, 4) if args.smoke else (10, 150))}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def compare(name: str, args: argparse.Namespace) -> dict[str, object]:
    """Seconds of a step of each loop, batch 32, mask rate 0.25."""
    mae = rp_models.build(name).to(args.device).eval()
    channels, size = mae.patch_embed.in_channels, mae.patch_embed.image_size
    x = torch.rand(32, channels, size, size, generator=torch.Generator().manual_seed(0)).to(args.device)
    index = torch.arange(32, device=args.device)
    subject = copy.copy(mae)  # shares the weights; the plain loop stays as it is written
    if args.compile:
        subject.loss = torch.compile(mae.loss)
    purifier = MAEPure(subject, steps=150)
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}

    def ours() -> None:
        faster = onednn_linear() if args.onednn else nullcontext()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16), faster:
            purifier.loss_gradient(x, seed=0, index=index, step=1)

    def plain() -> None:
        values = noise.uniform((mae.tokens,), seed=0, purpose="mask 0 of step 1", index=index)
        leaf = x.clone().requires_grad_()
        mae.loss(leaf, random_mask(values, 0.25)).mean().backward()
        mae.zero_grad(set_to_none=True)

    for pair in range(args.pairs + 1):
        for title, function in (("ours", ours), ("plain", plain)):
            fused = Attention.forward
            if title == "plain":
                Attention.forward = spelled_out  # type: ignore[method-assign]
            seconds = timed(function, args.device)
            Attention.forward = fused  # type: ignore[method-assign]
            if pair > 0:  # the first pair warms up
                times[title].append(seconds)
    result: dict[str, object] = {}
    for kind, name_of_ratio in enumerate(("ratio", "cpu_ratio")):
        pairs = zip(times["ours"], times["plain"], strict=True)
        ratios = [mine[kind] / theirs[kind] for mine, theirs in pairs]
        result[name_of_ratio] = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    median = {title: statistics.median(wall for wall, _ in values) for title, values in times.items()}
    return result | {"seconds_per_step": median, "seconds_for_150_steps_of_32_images": 150 * median["ours"]}


def spelled_out(self: Attention, x: Tensor) -> Tensor:
    """Attention without the fused kernel."""
    q, k, v = self.project(x)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return self.proj((weights @ v).transpose(1, 2).flatten(2))


def timed(function: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds of one call: on the clock, and of processor time."""
    if device == "cuda":
        torch.cuda.synchronize()
    start, used = time.perf_counter(), time.process_time()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - used


def measured_apart(steps: int) -> dict[str, float]:
    """`curved_pass` in a process of its own, whose peak memory is then its own."""
    command = [sys.executable, __file__, "--memory-of", str(steps)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def curved_pass(steps: int) -> dict[str, float]:
    """Peak memory above that of one step, of a forward and backward pass with grad="ste-tanh", 64 digits."""
    mae = rp_models.build("mae-digits").eval()
    x = torch.rand(64, 1, 8, 8).requires_grad_()
    MAEPure(mae, steps=2, grad="ste-tanh")(x, seed=0).sum().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    MAEPure(mae, steps=steps, grad="ste-tanh")(x, seed=0).sum().backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"growth_mib": (after - before) / 1024, "images_mib": steps * x.nbytes / 2**20}


if __name__ == "__main__":
    main()
