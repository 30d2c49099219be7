"""Whether channels_last is faster, network by network: forward and backward passes in both memory layouts."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import rp_models
import torch
from rp_models.precision import autocast
from rp_models.settings import Precision
from torch import Tensor, nn

NETWORKS: dict[str, tuple[str, int, dict[str, int], dict[str, int]]] = {
    "WRN-28-10": ("wrn-28-10-swish", 32, {}, {"depth": 10, "width": 1}),
    "PreAct ResNet-18": ("preact-resnet18", 32, {}, {}),
    "ResNet-50": ("resnet50", 224, {}, {}),
    "ConvNeXt-B": ("convnext-b", 224, {}, {}),
    "EDM, CIFAR-10": ("edm-cifar10-uncond-vp", 32, {}, {"model_channels": 8, "num_blocks": 1}),
}
"""By name: the zoo's network, the size of its images, and sizes of it, of which the last are those of a tiny one."""
LAYOUTS = (torch.contiguous_format, torch.channels_last)
GAIN = 0.97  # a smaller one is within the noise of the clock


def layouts(device: torch.device, *, tiny: bool = False, repeats: int = 5) -> Iterator[dict[str, Any]]:
    """A row for each network: the shortest seconds in each layout, measured in turns, and the better one.

    In bfloat16 on a GPU, in float32 on a CPU.
    """
    precision: Precision = "bf16" if device.type == "cuda" else "fp32"
    for name, (code, size, sizes, small) in NETWORKS.items():
        if tiny and not small:
            continue
        batch = (128 if device.type == "cuda" else 8) if size < 64 else (32 if device.type == "cuda" else 2)
        try:
            network = rp_models.build(code, **(small if tiny else sizes)).to(device)
        except ImportError as error:  # a network of timm
            yield {"what": name, "left out": str(error)}
            continue
        x = torch.rand(2 if tiny else batch, 3, 32 if tiny else size, 32 if tiny else size, device=device)
        inputs = (x, torch.full((len(x),), 0.3, device=device)) if code.startswith("edm") else (x,)
        seconds = {layout: float("inf") for layout in LAYOUTS}
        for _ in range(repeats + 1):  # the first ones choose algorithms
            for layout in LAYOUTS:
                seconds[layout] = min(seconds[layout], _timed(_passes(network, layout, inputs, precision), device))
        plain, last = (seconds[layout] for layout in LAYOUTS)
        better = "channels_last" if last < GAIN * plain else "contiguous" if plain < GAIN * last else "either"
        yield {"what": f"{name}, {len(x)} images of {x.shape[-1]} pixels, {precision}", "contiguous s": plain,
               "channels_last s": last, "ratio": last / plain, "better": better}  # fmt: skip


def _passes(
    network: nn.Module, layout: torch.memory_format, inputs: tuple[Tensor, ...], precision: Precision
) -> Callable[[], None]:
    """A forward and a backward pass, to the images and to the weights."""
    network.to(memory_format=layout)
    leaf = inputs[0].contiguous(memory_format=layout).requires_grad_()
    wanted = [leaf, *(parameter for parameter in network.parameters() if parameter.requires_grad)]

    def both() -> None:
        with autocast(leaf.device, precision):
            found = network(leaf, *inputs[1:])
        torch.autograd.grad(found.float().square().mean(), wanted, allow_unused=True)

    return both


def _timed(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
