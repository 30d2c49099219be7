"""Which device a job computes on."""

import os
import platform
from pathlib import Path

import torch

from rp_models.training.distributed import launched


class DeviceError(RuntimeError):
    """There is no such device here."""


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one. Under `torchrun` each process takes its own GPU.

    Raises DeviceError if there is no such device here.
    """
    if name == "auto":
        return _own(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = _own(torch.device(name))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"no device {name!r} here ({reason}); try --device cpu") from None
    return device


def describe_device(device: torch.device) -> str:
    """What the device is called by its maker, and on a CPU the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{_processor()}, {torch.get_num_threads()} thread(s)"


def _own(device: torch.device) -> torch.device:
    """The device of this process: with several processes on one machine, each takes its own GPU."""
    if device.type == "cuda" and device.index is None and launched():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def _processor() -> str:
    """The name of the processor; its architecture where the system does not tell."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
