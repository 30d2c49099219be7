"""Every trainer."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from rp_models import build
from rp_models.data import load_images, read_synthetic, write_synthetic
from rp_models.settings import ComputeSettings, EdmSettings, MaeSettings, MaskDitSettings, StandardSettings

from tests.gpu_cases.case import FAST, Step, case, classifier, digits, tiny_edm


def _dra(
    device: str, *, synthetic: Any, target: Any = None, method: str = "dm-at", classifier_: Any = None, **recipe: Any
) -> Step:
    from rp_dra import AlignmentSettings, ClassifierSettings, ClassifierTrainer, TrainingSettings, objective_of

    settings = TrainingSettings(
        **{
            "epochs": 4,
            "batch_size": 16,
            "epoch_images": 64,
            "eps": 0.1,
            "step_size": 0.05,
            "attack_steps": 10,
            "crop_padding": 1,
            "validation_steps": 4,
            **recipe,
        }
    )
    trainer = ClassifierTrainer(
        classifier_ or ClassifierSettings(depth=10, width=1),
        settings,
        digits(device, 64),
        objective=objective_of(settings, method=method, num_classes=10),
        synthetic=synthetic,
        validation=digits(device, 32, "validation"),
        target=target,
        alignment=AlignmentSettings(hidden=16),
        compute=FAST,
        seed=0,
    )

    def step(number: int) -> Any:
        return trainer.step(number)

    step.trainer = trainer  # type: ignore[attr-defined]
    return step


@case("train/dra wrn trades+edm target, all images on the device")
def _(device: str) -> Step:
    from rp_dra import EdmTarget

    target = EdmTarget(tiny_edm(), random_level=True, precision="bf16").to(device)
    return _dra(device, synthetic=digits(device, 48, "validation"), target=target)


@case("train/dra wrn trades, synthetic images mapped from files")
def _(device: str) -> Step:
    folder = Path(tempfile.mkdtemp())
    images = load_images("digits", "train")
    write_synthetic(images.images[:200], images.labels[:200], folder / "s.npz")
    return _dra(device, synthetic=read_synthetic(folder / "s.npz", images.info).to(device))


@case("train/dra vit trades")
def _(device: str) -> Step:
    from rp_dra import ClassifierSettings

    return _dra(
        device,
        synthetic=None,
        method="at",
        classifier_=ClassifierSettings(network="vit-digits", arguments={"depth": 2}),
        optimizer="lion",
        lr=1e-4,
        schedule="cosine",
        undecayed="vectors",
    )


@case("train/dra wrn + lightningdit target")
def _(device: str) -> Step:
    from rp_dra.targets import LightningDitTarget
    from rp_models.networks.lightningdit import LightningDiT
    from rp_models.networks.vae import AutoencoderKL, LatentNormalization

    torch.manual_seed(0)
    vae = AutoencoderKL(width=32, multipliers=[1, 2], attention=[False, False], z_channels=4, in_channels=1, blocks=1)
    dit = LightningDiT(image_size=4, in_channels=4, width=48, depth=2, heads=2, num_classes=10, patch_size=1)
    target = LightningDitTarget(dit, vae, LatentNormalization(4), blocks=1, zero_channels=(1,)).to(device)
    return _dra(device, synthetic=None, method="at+dra", target=target)


@case("train/dra adr")
def _(device: str) -> Step:
    return _dra(device, synthetic=None, method="at+adr")


@case("train/dra ikl")
def _(device: str) -> Step:
    return _dra(device, synthetic=None, method="at+ikl")


@case("train/dra validation (32 images, 4 steps)")
def _(device: str) -> Step:
    trainer = _dra(device, synthetic=None, method="at").trainer  # type: ignore[attr-defined]
    return lambda number: trainer.after_step(4 * (number + 1))


@case("train/edm")
def _(device: str) -> Step:
    from rp_models.training import EdmTrainer

    settings = EdmSettings(
        model_channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        augment=0.12,
        steps=10,
        batch_size=16,
    )
    return EdmTrainer(settings, digits(device), seed=0, compute=FAST).step


@case("train/mae")
def _(device: str) -> Step:
    from rp_models.training import MaeTrainer

    settings = MaeSettings(network="mae-digits", steps=10, batch_size=16, warmup_steps=1, crop_scale=0.5, flip=True)
    return MaeTrainer(settings, digits(device), seed=0, compute=ComputeSettings(precision="bf16")).step


@case("train/maskdit")
def _(device: str) -> Step:
    from rp_models.training import MaskDitTrainer

    settings = MaskDitSettings(
        network="maskdit-digits",
        sizes={"width": 16, "heads": 2, "depth": 1, "decoder_width": 16, "decoder_depth": 1},
        num_classes=10,
        steps=10,
        unmasked_steps=2,
        batch_size=16,
    )
    return MaskDitTrainer(settings, digits(device), seed=0, compute=ComputeSettings(precision="bf16")).step


@case("train/standard classifier")
def _(device: str) -> Step:
    from rp_models.training import StandardTrainer

    settings = StandardSettings(
        network="dm-wide-resnet",
        sizes={"depth": 10, "width": 1},
        steps=10,
        batch_size=16,
        crop_padding=1,
        rotation_degrees=10,
        cutout=2,
        ema_half_life=16,
    )
    return StandardTrainer(settings, digits(device), seed=0, compute=FAST).step


@case("train/finetune rmae (2 true steps)")
def _(device: str) -> Step:
    from rp_purify import MAEPure
    from rp_purify.finetune import Finetuner
    from rp_purify.settings import FinetuneSettings

    images = digits(device, 32)
    purifier = MAEPure(build("mae-digits").to(device), steps=2, step_size=0.02, eta=0.15, grad="ste-tanh")
    tuner = Finetuner(
        FinetuneSettings(batch_size=16, steps=5),
        purifier,
        classifier(device),
        images,
        images.batch(slice(None))[0],
        seed=0,
    )
    return tuner.step


@case("train/encoder, noisy input")
def _(device: str) -> Step:
    from rp_dra.diffusion_encoder import NoisyClassifier
    from rp_dra.encoder_settings import EncoderSettings
    from rp_dra.encoder_trainer import NoisyClassifierTrainer

    model = NoisyClassifier(tiny_edm(0), 10)
    return NoisyClassifierTrainer(model, digits(device), EncoderSettings(batch_size=16, epochs=2), seed=0).step


@case("train/linear probe")
def _(device: str) -> Step:
    from rp_dra import EdmTarget
    from rp_dra.encoder_settings import ProbeSettings
    from rp_dra.probe_trainer import ProbeTrainer

    target = EdmTarget(tiny_edm(0), label="null").to(device)
    return ProbeTrainer(target, digits(device), ProbeSettings(batch_size=16, epochs=2), seed=0).step


@case("train/fit probe (logistic regression)")
def _(device: str) -> Step:
    from rp_dra import EdmTarget, fit_probe

    target = EdmTarget(tiny_edm(0), label="null").to(device)
    return lambda number: fit_probe(target, digits(device, 32), seed=number)
