"""CKNNA in row blocks against the dense formulation: time, memory above the data, and the same number.

    python packages/rp-analysis/benchmarks/similarity.py [--n 4000] [--d 640] [--large 50000] [--smoke]

The dense twin is written as the formula reads, with the matrix products 1 1^T P of the estimator; `dense sums`
replaces those products by row and column sums, which is the best a dense matrix allows.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from rp_analysis import cknna
from torch import Tensor


def hsic_products(p: Tensor, q: Tensor) -> Tensor:
    """Unbiased HSIC with n x n matrix products throughout."""
    m = len(p)
    ones = torch.ones_like(p)
    value = (p * q.T).sum() + p.sum() * q.sum() / ((m - 1) * (m - 2))
    value = value - 2 / (m - 2) * ((ones @ p) @ (q @ ones)).trace() / m
    return value / (m * (m - 3))


def hsic_sums(p: Tensor, q: Tensor) -> Tensor:
    """Unbiased HSIC with sums in place of the products."""
    m = len(p)
    value = (p * q.T).sum() + p.sum() * q.sum() / ((m - 1) * (m - 2))
    return (value - 2 / (m - 2) * (p.sum(0) @ q.sum(1))) / (m * (m - 3))


def cknna_dense(a: Tensor, b: Tensor, k: int, products: bool) -> float:
    """CKNNA with every kernel, mask and product as an n x n matrix."""
    hsic = hsic_products if products else hsic_sums
    kernels, masks = [], []
    for x in (a, b):
        x = torch.nn.functional.normalize(x, dim=1)
        kernel = x @ x.T
        near = kernel.clone().fill_diagonal_(-torch.inf).topk(k, dim=1).indices
        masks.append(torch.zeros_like(kernel).scatter_(1, near, 1.0))
        kernels.append(kernel)
    (p, q), (mask_p, mask_q) = kernels, masks
    both = mask_p * mask_q
    numerator = hsic(both * p, both * q)
    denominator = hsic(mask_p * p, mask_p * p) * hsic(mask_q * q, mask_q * q)
    return float(numerator / (denominator.sqrt() + 1e-6))


def measure(method: str, n: int, d: int, k: int) -> None:
    """Prints the score, wall and processor seconds and the megabytes above the data of one method."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(n, 16, generator=generator)
    a, b = (common @ torch.randn(16, d, generator=generator) for _ in range(2))
    a, b = (x + torch.randn(n, d, generator=generator) for x in (a, b))
    run = {
        "blocks": lambda x, y: cknna(x, y, k),
        "dense": lambda x, y: cknna_dense(x, y, k, products=True),
        "dense-sums": lambda x, y: cknna_dense(x, y, k, products=False),
    }[method]
    run(a[:64], b[:64])  # the first call loads kernels
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that making the data left (Linux)
    before = peak_megabytes()
    start = time.perf_counter(), time.process_time()
    score = run(a, b)
    wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    print(score, wall, processor, peak_megabytes() - before)


def peak_megabytes() -> float:
    """The largest resident memory of this process since the peak was last forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Runs every method in a process of its own, so that peaks of memory do not mix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--d", type=int, default=640)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--large", type=int, default=0, help="also run the blocks alone at this n, e.g. 50000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it starts")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.smoke:
        args.n, args.d, args.large, args.repeats = 200, 16, 0, 1
    if args.method:
        measure(args.method, args.n, args.d, args.k)
        return
    print(f"n = {args.n}, d = {args.d}, k = {args.k}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    seconds = {}
    for method in ("dense", "dense-sums", "blocks"):
        runs = [_child(method, args.n, args) for _ in range(args.repeats)]
        score, *seconds[method], megabytes = (min(values) for values in zip(*runs, strict=True))
        wall, processor = seconds[method]
        spent = f"{wall:6.2f} s  {processor:6.2f} s of processor  {megabytes:5.0f} MB above the data"
        print(f"{method:>10}: {score:.6f}  {spent}")
    for method in ("dense", "dense-sums"):
        wall, processor = (own / dense for own, dense in zip(seconds["blocks"], seconds[method], strict=True))
        print(f"blocks / {method}: {wall:.2f} of the time, {processor:.2f} of processor time")
    if args.large:
        score, wall, processor, megabytes = _child("blocks", args.large, args)
        print(f"n = {args.large}: {score:.6f}  {wall:.1f} s  {processor:.1f} s of processor  {megabytes:.0f} MB")


def _child(method: str, n: int, args: argparse.Namespace) -> tuple[float, ...]:
    command = [sys.executable, __file__, "--method", method, "--n", str(n), "--d", str(args.d), "--k", str(args.k)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(float(value) for value in out.split())


if __name__ == "__main__":
    main()
