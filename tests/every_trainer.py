"""What `test_every_trainer.py` runs, alone in the test's process and in two processes."""

import sys
from pathlib import Path
from unittest import mock

import torch
from rp_models.checkpoint import save_tensors
from rp_models.settings import ComputeSettings
from rp_models.training.distributed import ALONE, init_distributed
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.gpu_cases.training import TRAINERS

BATCH, MICRO = 16, 8
WAYS = {"in micro-batches": {"micro_batch": MICRO, "checkpointing": True}, "own batch norms": {"bn": "local"}}
WHOLE = ("dra ikl",)  # losses that are no means over images, which micro-batches would change
SAME = ("dra wrn trades, synthetic images mapped from files", "dra wrn + lightningdit target")  # as the first one here
NAMES = [
    f"{name} {way}" for name in TRAINERS if name not in SAME for way in WAYS if name not in WHOLE or "micro" not in way
]


def _one_by_one(size):
    """Batch norms of one process that do what those of two do where each sees its own half of `size` images."""
    whole = nn.BatchNorm2d.forward

    def forward(self, x):
        if not self.training:
            return whole(self, x)
        parts = x.unflatten(0, (-1, 2, size // 2))  # images and their adversarial ones may come in one pass
        first, second = parts[:, 0].flatten(0, 1), parts[:, 1].flatten(0, 1)
        ours = whole(self, first)  # whose running statistics count
        other = F.batch_norm(second, None, None, self.weight, self.bias, True, 0.0, self.eps)
        halves = [half.unflatten(0, (-1, 1, size // 2)) for half in (ours, other)]
        return torch.cat(halves, dim=1).flatten(0, 2)

    return mock.patch.object(nn.BatchNorm2d, "forward", forward)


def _made(name, way, processes):
    """A trainer without dropout, which two processes draw by themselves, and without gates at zero, which hide much."""
    how = {**WAYS[way], **({"checkpointing": False} if name == "linear probe" else {})}  # it has no blocks
    if "micro_batch" in how:  # those of two processes together are as large as those of one
        how["micro_batch"] //= processes.count
    torch.manual_seed(0)
    trainer = TRAINERS[name]("cpu", ComputeSettings(**how), processes)
    for module in trainer.model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    for parameter in trainer.model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return trainer


def trained(label, processes=ALONE, resumed=None):
    """What two steps give: moments of the gradients, buffers, averages, and the logged figures.

    `resumed`: a file; the training is stopped between the steps, and another trainer goes on from it.
    """
    name, way = next((label[: -len(way) - 1], way) for way in WAYS if label.endswith(way))
    trainer = _made(name, way, processes)
    figures = [trainer.step(0)]
    if resumed is not None:
        trainer.state.save(resumed, 1, {})
        trainer = _made(name, way, processes)
        trainer.state.restore(resumed, {})
    figures.append(trainer.step(1))
    found = {
        f"{kind}.{number}": value
        for number, state in trainer.state.optimizer.state_dict()["state"].items()
        for kind, value in state.items()
        if kind in ("exp_avg", "momentum_buffer")
    }
    found |= {f"buffer.{key}": value.float() for key, value in trainer.model.named_buffers()}
    if trainer.average is not trainer.model:
        found |= {
            f"average.{key}": value
            for key, value in trainer.average.named_parameters()
            if not key.endswith("qkv.bias")  # that of keys has no gradient but rounding, which Adam makes steps of
        }
    found["figures"] = torch.tensor([value for each in figures for value in each.values()])
    return {key: value.detach().clone() for key, value in found.items()}


def alone(label, file):
    """The same by one process, which stops between the steps."""
    size = MICRO if "micro" in label else BATCH
    if label.endswith("own batch norms"):
        with _one_by_one(size):
            return trained(label, resumed=file)
    return trained(label, resumed=file)


def main(folder):
    """Every trainer in every way."""
    torch.set_num_threads(1)
    with init_distributed(torch.device("cpu")) as processes:
        for label in NAMES:
            found = trained(label, processes)
            save_tensors(found, folder / f"{label.replace('/', ' ')}.{processes.rank}.safetensors", {})
