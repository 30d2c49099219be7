"""What `test_distributed.py` runs, alone in the test's process and in two processes."""

import torch
from rp_dra import AlignmentSettings, ClassifierSettings, ClassifierTrainer, EdmTarget, TrainingSettings, objective_of
from rp_dra.settings import AwpSettings
from rp_models import build
from rp_models.checkpoint import save_tensors
from rp_models.data import load_images, subset
from rp_models.settings import ComputeSettings
from rp_models.training import ALONE, RunFolder, init_distributed, seeded, train_stage

STEPS = 4
RECIPES = {
    "trades": {},
    "adr": {"objective": "adr", "norm": "l2", "eps": 0.5, "step_size": 0.2},
    "awp": {"objective": "trades-original", "awp": AwpSettings(gamma=0.01)},
    "trades in micro-batches": {},
    "ikl": {"objective": "ikl", "optimizer": "adamw", "lr": 1e-3, "schedule": "cosine"},
}
ALIGNMENT = {"awp": {"loss": "cka", "shuffle": "class", "images": "both", "consistency": 0.5}}


def trainer(name, processes=ALONE):
    """A small trainer with synthetic images and alignment."""
    shared = {"epochs": 2, "batch_size": 8, "epoch_images": 16, "eps": 0.1, "step_size": 0.05, "attack_steps": 2}
    recipe = TrainingSettings(**{**shared, "crop_padding": 1, "validation_steps": 2, "warmup": 0.5, **RECIPES[name]})
    sizes = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 8, "channel_mult": [1, 2]}
    with seeded(0, "edm"):
        edm = build("edm", model_type="SongUNet", num_blocks=1, attn_resolutions=[4], **sizes)
    return ClassifierTrainer(
        ClassifierSettings(depth=10, width=1),
        recipe,
        subset(load_images("digits", "train"), 24),
        objective=objective_of(recipe, num_classes=10),
        synthetic=subset(load_images("digits", "validation"), 20),
        validation=subset(load_images("digits", "test"), 9),
        target=EdmTarget(edm),
        alignment=AlignmentSettings(hidden=16, **ALIGNMENT.get(name, {})),
        compute=ComputeSettings(micro_batch=4 // processes.count, checkpointing=True) if "micro" in name else None,
        processes=processes,
        seed=3,
    )


def trained(name, folder, processes=ALONE, steps=STEPS):
    """All tensors of the training state after some steps, from wherever the folder's state stands."""
    made = trainer(name, processes)
    processes.rank_zero_first(lambda: RunFolder.open(folder, {}, resume=True))
    train_stage(
        made,
        stage=name,
        steps=steps,
        folder=RunFolder(folder),
        identity={},
        seed=0,
        after_step=made.after_step,
        processes=processes,
    )
    return {
        f"{part}.{key}": value.clone()
        for part, module in made.state.modules.items()
        for key, value in module.state_dict().items()
    }


def main(folder):
    """Every recipe by two processes; one of them in two sessions as well."""
    torch.set_num_threads(1)
    with init_distributed(torch.device("cpu")) as processes:
        for name in RECIPES:
            save(trained(name, folder / name, processes), folder, f"{name}.{processes.rank}")
        trained("adr", folder / "again", processes, steps=3)
        save(trained("adr", folder / "again", processes), folder, f"resumed.{processes.rank}")


def save(tensors, folder, name):
    """Leave tensors for the test."""
    save_tensors(tensors, folder / f"{name}.safetensors", {})
