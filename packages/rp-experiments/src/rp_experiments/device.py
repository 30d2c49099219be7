"""Which device a job computes on."""

import platform
from pathlib import Path

import torch
from rp_models.data.datasets import DataError
from rp_models.training import local_device


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one. Under `torchrun` each process takes its own GPU.

    Raises:
        DataError: if there is no such device here.
    """
    if name == "auto":
        return local_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = local_device(torch.device(name))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"no device {name!r} here ({reason}); try --device cpu") from None
    return device


def describe_device(device: torch.device) -> str:
    """What the device is called by its maker, and on a CPU the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{_processor()}, {torch.get_num_threads()} thread(s)"


def _processor() -> str:
    """The name of the processor; its architecture where the system does not tell."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
