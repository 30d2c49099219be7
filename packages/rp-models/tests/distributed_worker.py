"""What `test_distributed.py` lets `torchrun` start in two processes; the test itself runs the same in one.

The first attempt trains every network, then kills its second process in the middle of a training. `torchrun` starts
both again, and the second attempt goes on with that training.
"""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from rp_models.checkpoint import save_tensors
from rp_models.data import ImageSet, load_images
from rp_models.settings import ComputeSettings, EdmSettings, MaeSettings, MaskDitSettings, StandardSettings
from rp_models.training import (
    ALONE,
    EdmTrainer,
    Engine,
    MaeTrainer,
    MaskDitTrainer,
    RunFolder,
    StandardTrainer,
    init_distributed,
    train_stage,
)
from rp_models.training.distributed import Stopped, _patient, synchronise_batch_norms
from rp_models.training.minibatches import mean_over
from rp_models.training.stage import state_path
from torch import nn

STEPS = 4
EDM = EdmSettings(
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(),
    dropout=0.0,
    augment=0.5,
    steps=STEPS,
    batch_size=8,
    rampup_images=32,
    ema_half_life=16,
)
MAE = MaeSettings(
    network="mae-digits", steps=STEPS, batch_size=8, warmup_steps=1, optimizer="sgd", lr=0.01, crop_padding=1, flip=True
)
MASKDIT = MaskDitSettings(
    network="maskdit-digits",
    sizes={"width": 16, "heads": 2, "depth": 1, "decoder_width": 16, "decoder_depth": 1},
    num_classes=10,
    steps=STEPS,
    unmasked_steps=2,
    batch_size=8,
    lr=1e-3,
    ema_half_life=16,
)
STANDARD = StandardSettings(
    network="dm-wide-resnet",
    sizes={"depth": 10, "width": 1},
    steps=STEPS,
    batch_size=8,
    crop_padding=1,
    ema_half_life=16,
)
MAKERS = {
    "edm": (EdmTrainer, EDM),
    "mae": (MaeTrainer, MAE),
    "maskdit": (MaskDitTrainer, MASKDIT),
    "classifier": (StandardTrainer, STANDARD),
}
TRAINERS = [*MAKERS, *(f"{name} in micro-batches" for name in MAKERS)]


def trainer(name, images, processes):
    """A trainer; the micro-batches of two processes together are as large as those of one."""
    make, settings = MAKERS[name.split(" ")[0]]
    small = {"micro_batch": 4 // processes.count, "checkpointing": True} if "micro" in name else {}
    return make(settings, images, seed=0, processes=processes, compute=ComputeSettings(**small))


def digits():
    images = load_images("digits", "train")
    return ImageSet(images.images[:40], images.labels[:40], images.info)


def trained(name, folder, processes=ALONE, kill_at=None):
    """The weights (and average) after all steps, and the logged losses."""
    made = trainer(name, digits(), processes)

    def after_step(done):
        if done == kill_at and processes.rank == 1:
            while not state_path(run, name).exists():  # the first process writes it
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    run = RunFolder(folder / name)
    processes.rank_zero_first(lambda: RunFolder.open(run.path, {}, resume=True))
    train_stage(
        made,
        stage=name,
        steps=STEPS,
        folder=run,
        identity={},
        seed=0,
        save_seconds=0.0,
        after_step=after_step,
        processes=processes,
    )
    tensors = {
        f"{part}.{key}": value
        for part, module in made.state.modules.items()
        for key, value in module.state_dict().items()
    }
    return tensors | {"losses": torch.tensor([record["loss"] for record in run.metrics(name)])}


def normalised(processes=ALONE):
    """Two batch norms, one of them averaging over all batches, on two batches: outputs, gradients, statistics."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, momentum, affine in (("usual", 0.1, True), ("cumulative", None, False)):
        model = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum, affine=affine))
        synchronise_batch_norms(model, processes)
        for number in range(2):
            x = 3 * torch.randn(6, 3, 4, 5, generator=generator) + 1
            weight = torch.randn(6, 3, 4, 5, generator=generator)
            part = processes.part(x).requires_grad_()
            y = model(part)
            (y.sin() * processes.part(weight)).sum().backward()
            found[f"{name}.y{number}"], found[f"{name}.grad{number}"] = y.detach(), part.grad
        found |= {f"{name}.{key}": value for key, value in model.state_dict().items() if "tracked" not in key}
    return found


def of_own_images(processes, rows=slice(8)):
    """A step of a network whose batch norm sees the images of its own process."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    for parameter, value in zip(net.parameters(), (0.3, 0.1, 1.0, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    compute = ComputeSettings(bn="local")
    synchronise_batch_norms(net, processes, compute)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)

    def loss(x):
        return (net(x) * x[:, :, :6, :6]).mean(), {}

    engine = Engine({"net": net}, loss, optimizer, compute=compute, processes=processes)
    engine.step(processes.part(digits().batch(rows)[0]))
    return net.state_dict()


def held_out(processes=ALONE):
    """Figures of a set whose last batch is short; three batches for two processes."""
    values = lambda x, labels, index: torch.stack([x.mean(dim=(1, 2, 3)), labels * index], dim=1)  # noqa: E731
    return mean_over(digits(), values, figures=2, batch_size=15, processes=processes)


def main(folder):
    with init_distributed(torch.device("cpu")) as processes:
        with init_distributed(torch.device("cpu")) as again:  # a block in a block joins the same group, and leaves it
            assert again == processes
            again.wait()
        with warnings.catch_warnings(action="error"):  # of an argument that this torch calls by another name
            wrapped = processes.wrap(nn.Linear(2, 2))
        assert not wrapped.broadcast_buffers  # batch norms see the same batch everywhere
        save = lambda tensors, name: save_tensors(tensors, folder / f"{name}.safetensors", {})  # noqa: E731
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first:
            for name in TRAINERS:
                save(trained(name, folder / "whole", processes), f"{name}.{processes.rank}")
            save(normalised(processes), f"normalised.{processes.rank}")
            save(of_own_images(processes), f"own.{processes.rank}")
            assert processes.rank_zero_first(lambda: "done") == ("done" if processes.main else None)
            assert processes.everywhere(lambda: processes.rank) == 0
            for group, limit in ((None, 600), (_patient(), 12 * 3600)):  # of exchanges, and of waits
                made = group or torch.distributed.group.WORLD
                assert made._get_backend(torch.device("cpu")).options._timeout.total_seconds() == limit
            (folder / f"held-out.{processes.rank}").write_text(json.dumps(held_out(processes)))
            try:
                processes.rank_zero_first(lambda: 1 / 0)
            except (Stopped, ZeroDivisionError) as error:
                (folder / f"stopped.{processes.rank}").write_text(type(error).__name__)
        save(trained("edm", folder / "killed", processes, kill_at=3 if first else None), f"resumed.{processes.rank}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
