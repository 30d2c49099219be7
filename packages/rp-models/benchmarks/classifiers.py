"""Our ViT, MAE and wrapped ResNet against timm's and torchvision's equivalents with the same weights, pairwise.

    python packages/rp-models/benchmarks/classifiers.py [--batch 8] [--rounds 10] [--threads 1] [--smoke]

Both sides of a pair take turns in one process; a row shows the best processor time of each and the median of ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import timm
import torch
import torchvision
from rp_models import build, noise
from rp_models.mask import random_mask
from rp_models.networks.vit import VisionTransformer
from torch import Tensor, nn

Pair = tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]


def vision_transformers(batch: int, smoke: bool) -> Iterator[Pair]:
    """ViT-B (smoke: one narrow block) with patches of 4 on 32x32 images against both libraries."""
    width, depth, heads = (32, 1, 2) if smoke else (768, 12, 12)
    ours = VisionTransformer(32, 4, num_classes=10, width=width, depth=depth, heads=heads).eval()
    sizes = {"img_size": 32, "patch_size": 4, "num_classes": 10}
    theirs = timm.models.vision_transformer.VisionTransformer(
        **sizes, embed_dim=width, depth=depth, num_heads=heads
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    x = images(batch, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    yield "ViT / timm's", ours, theirs, x
    other = torchvision.models.VisionTransformer(32, 4, depth, heads, width, 4 * width, num_classes=10).eval()
    yield "ViT / torchvision's (other weights)", ours, other, x


def autoencoders(batch: int, smoke: bool) -> Iterator[Pair]:
    """The encoder with 75 % of the patches hidden against the encoder of whole images."""
    model = build("mae-digits", image_size=32, patch_size=4, in_channels=3) if smoke else build("mae-vit-base-p4-32")
    mask = random_mask(noise.uniform((64,), seed=0, purpose="mask", index=torch.arange(batch)), 0.75)
    yield "MAE encoder, 75 % hidden / none", lambda x: model.encode(x, mask), model.encode, images(batch, 32)


def residual_networks(batch: int, smoke: bool) -> Iterator[Pair]:
    """The wrapped ResNet-50 of timm, normalisation included, against torchvision's."""
    ours = build("resnet50", num_classes=10).eval()
    theirs = torchvision.models.resnet50(num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    yield "wrapped ResNet-50 / torchvision's", ours, theirs, images(1 if smoke else batch, 32 if smoke else 64)


def images(batch: int, size: int) -> Tensor:
    """Noise images in [0, 1]."""
    return noise.uniform((3, size, size), seed=0, purpose="images", index=torch.arange(batch))


def seconds(call: Callable[[Tensor], Tensor], x: Tensor, backward: bool) -> float:
    """Processor time of one forward pass, with the backward pass on request."""
    if isinstance(call, nn.Module):
        call.zero_grad()
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        out = call(x)
        if backward:
            out.square().sum().backward()
    return time.process_time() - start


def compare(pair: Pair, rounds: int) -> None:
    """Print one row of the table."""
    name, ours, theirs, x = pair
    row = [f"{name:36}"]
    for backward in (False, True):
        times: list[tuple[float, float]] = []
        for i in range(rounds + 1):  # the first round warms up
            first, second = (ours, theirs) if i % 2 else (theirs, ours)
            a, b = seconds(first, x, backward), seconds(second, x, backward)
            times.append((a, b) if i % 2 else (b, a))
        best = [min(column) for column in zip(*times[1:], strict=True)]
        ratio = statistics.median(a / b for a, b in times[1:])
        row.append(f"{best[0] * 1e3:9.1f} {best[1] * 1e3:9.1f} {ratio:7.3f}")
    print(" |".join(row))


def main() -> None:
    """Compare all pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, one round")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, timm {timm.__version__}, torchvision {torchvision.__version__}")
    print(f"batch {options.batch}, threads {options.threads}, milliseconds: ours, theirs, median ratio")
    print(f"{'':36} | {'forward':>26} | {'forward and backward':>26}")
    for pairs in (vision_transformers, autoencoders, residual_networks):
        for pair in pairs(options.batch, options.smoke):
            compare(pair, 1 if options.smoke else options.rounds)


if __name__ == "__main__":
    main()
