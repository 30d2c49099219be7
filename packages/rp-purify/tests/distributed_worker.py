"""What `test_finetune.py` runs, alone in the test's process and in two processes under `torchrun`."""

import sys
from pathlib import Path

import torch
from rp_models.checkpoint import save_tensors
from rp_models.data import ImageSet, load_images
from rp_models.training.distributed import ALONE, init_distributed
from rp_purify import Finetuner, FinetuneSettings, MAEPure, MAEReconstruction

sys.path.insert(0, str(Path(__file__).parent))
from models import TinyClassifier, tiny_mae

PURIFIERS = {"one-shot": MAEReconstruction, "steps": lambda mae: MAEPure(mae, steps=2, grad="ste-tanh")}


def finetuned(name, processes=ALONE):
    """The weights after three steps on digits that are mirrored in place of being attacked."""
    images = load_images("digits", "train")
    few = ImageSet(images.images[:24], images.labels[:24], images.info)
    settings = FinetuneSettings(steps=4, batch_size=8, lr=1e-3)
    x, classifier = few.batch(slice(None))[0].flip(3), TinyClassifier()
    trainer = Finetuner(settings, PURIFIERS[name](tiny_mae()), classifier, few, x, processes=processes, seed=0)
    for step in range(3):
        trainer.step(step)
    return trainer.model.state_dict()


def main(folder):
    """Both by two processes."""
    with init_distributed(torch.device("cpu")) as processes:
        for name in PURIFIERS:
            save_tensors(finetuned(name, processes), folder / f"{name}.{processes.rank}.safetensors", {})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
