"""One training step of the TopK sparse autoencoder against the plain dense PyTorch step: time and memory.

    python packages/rp-analysis/benchmarks/sae.py [--d 768] [--batch 4096] [--latents 6144 24576] [--smoke]

The dense step is a TopK mask on a dense code, matrix products for encoder and decoder, autograd, Adam, and nothing
else. The sparse step is the trainer's whole step: also counting dead latents, unit decoder columns and the projected
gradient. Both use the same Adam implementation. `dead` adds an auxiliary loss with 10 % dead latents.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rp_analysis import SaeConfig, SaeTrainer
from torch import Tensor, nn

Step = Callable[[Tensor], float]


def dense_step(d: int, n: int, k: int) -> Step:
    """A step by dense products and autograd."""
    encoder, decoder = nn.Linear(d, n), nn.Linear(n, d, bias=False)
    pre_bias = nn.Parameter(torch.zeros(d))
    decoder.weight.data = nn.functional.normalize(encoder.weight.data.T, dim=0)
    optimizer = torch.optim.Adam([pre_bias, *encoder.parameters(), *decoder.parameters()], lr=1e-4, fused=True)

    def step(x: Tensor) -> float:
        pre = encoder(x - pre_bias)
        top = pre.topk(k, dim=1)
        code = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        recons = decoder(code) + pre_bias
        loss = (recons - x).square().sum() / (x - x.mean(0)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def sparse_step(d: int, n: int, k: int, dead: bool) -> Step:
    """The trainer's step."""
    config = SaeConfig(k=k, expansion=n / d, input_norm="none", init_samples=256)
    trainer = SaeTrainer(torch.randn(4096, d, generator=torch.Generator().manual_seed(1)), config)
    trainer.dead_steps = 10**9

    def step(x: Tensor) -> float:
        if dead:
            trainer.silent[: n // 10] = 2 * 10**9
        return trainer.train_step(x).recons_loss

    return step


def measure(method: str, n: int, args: argparse.Namespace) -> None:
    """Prints the last loss, the least wall and processor seconds of a step, and the megabytes above the state."""
    generator = torch.Generator().manual_seed(0)
    step = dense_step(args.d, n, args.k) if method == "dense" else sparse_step(args.d, n, args.k, method == "dead")
    x = torch.randn(args.batch, args.d, generator=generator)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = peak_megabytes()
    wall, processor = [], []
    for _ in range(args.steps + 1):  # the first one loads kernels and makes the moments
        start = time.perf_counter(), time.process_time()
        loss = step(x)
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    print(loss, min(wall[1:]), min(processor[1:]), peak_megabytes() - before)


def peak_megabytes() -> float:
    """The largest resident memory of this process since the peak was last forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Runs every method in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--latents", type=int, nargs="+", default=[6144, 24576])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it starts")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.smoke:
        args.d, args.k, args.batch, args.latents, args.steps = 16, 4, 64, [64], 1
    if args.method:
        measure(args.method, args.latents[0], args)
        return
    print(f"d = {args.d}, k = {args.k}, batch {args.batch}, {torch.get_num_threads()} threads")
    for n in args.latents:
        seconds = {}
        for method in ("dense", "sparse", "dead"):
            options = {"d": args.d, "k": args.k, "batch": args.batch, "latents": n, "steps": args.steps}
            command = [sys.executable, __file__, "--method", method]
            command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            loss, *seconds[method], megabytes = (float(value) for value in out.split())
            wall, processor = seconds[method]
            spent = f"{wall:5.2f} s  {processor:5.2f} s of processor  {megabytes:5.0f} MB"
            print(f"{n:>6} latents, {method:>6}: loss {loss:.4f}  {spent}")
        for method in ("sparse", "dead"):
            wall, processor = (own / dense for own, dense in zip(seconds[method], seconds["dense"], strict=True))
            print(f"{n:>6} latents, {method} / dense: {wall:.2f} of the time, {processor:.2f} of processor time")


if __name__ == "__main__":
    main()
