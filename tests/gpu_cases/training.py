"""Every trainer."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rp_models import build
from rp_models.data import load_images, read_synthetic, write_synthetic
from rp_models.settings import ComputeSettings, EdmSettings, MaeSettings, MaskDitSettings, StandardSettings
from rp_models.training.distributed import Processes
from rp_models.training.trainer import BaseTrainer

from tests.gpu_cases.case import FAST, Step, case, classifier, digits, group, tiny_edm

TRAINERS: dict[str, Callable[[str, ComputeSettings, Processes], BaseTrainer]] = {}
SIZES = {"batch_size": 16, "epochs": 2}


def trainer(
    name: str, compute: ComputeSettings = FAST
) -> Callable[[Callable[..., BaseTrainer]], Callable[..., BaseTrainer]]:
    """Register a function of (device, compute, processes) that makes a trainer, and the case of its steps."""

    def keep(make: Callable[..., BaseTrainer]) -> Callable[..., BaseTrainer]:
        TRAINERS[name] = make
        case(f"train/{name}")(lambda device: make(device, compute, group()).step)
        return make

    return keep


def _dra(
    device: str,
    compute: ComputeSettings,
    processes: Processes,
    *,
    synthetic: Any = None,
    target: Any = None,
    method: str = "at",
    classifier_: Any = None,
    **recipe: Any,
) -> BaseTrainer:
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
    return ClassifierTrainer(
        classifier_ or ClassifierSettings(depth=10, width=1),
        settings,
        digits(device, 64),
        objective=objective_of(settings, method=method, num_classes=10),
        synthetic=synthetic,
        validation=digits(device, 32, "validation"),
        target=target,
        alignment=AlignmentSettings(hidden=16),
        compute=compute,
        processes=processes,
        seed=0,
    )


@trainer("dra wrn trades+edm target, all images on the device")
def _(device: str, *how: Any) -> BaseTrainer:
    from rp_dra import EdmTarget

    target = EdmTarget(tiny_edm(), random_level=True, precision=how[0].precision).to(device)
    return _dra(device, *how, method="dm-at", synthetic=digits(device, 48, "validation"), target=target)


@trainer("dra wrn trades, synthetic images mapped from files")
def _(device: str, *how: Any) -> BaseTrainer:
    folder = Path(tempfile.mkdtemp())
    images = load_images("digits", "train")
    write_synthetic(images.images[:200], images.labels[:200], folder / "s.npz")
    synthetic = read_synthetic(folder / "s.npz", images.info).to(device)
    return _dra(device, *how, method="dm-at", synthetic=synthetic)


@trainer("dra vit trades")
def _(device: str, *how: Any) -> BaseTrainer:
    from rp_dra import ClassifierSettings

    vit = ClassifierSettings(network="vit-digits", arguments={"depth": 2})
    rest = {"optimizer": "lion", "lr": 1e-4, "schedule": "cosine", "undecayed": "vectors"}
    return _dra(device, *how, classifier_=vit, **rest)


@trainer("dra wrn + lightningdit target")
def _(device: str, *how: Any) -> BaseTrainer:
    from rp_dra.targets import LightningDitTarget
    from rp_models.networks.lightningdit import LightningDiT
    from rp_models.networks.vae import AutoencoderKL, LatentNormalization

    torch.manual_seed(0)
    vae = AutoencoderKL(width=32, multipliers=[1, 2], attention=[False, False], z_channels=4, in_channels=1, blocks=1)
    dit = LightningDiT(image_size=4, in_channels=4, width=48, depth=2, heads=2, num_classes=10, patch_size=1)
    target = LightningDitTarget(dit, vae, LatentNormalization(4), blocks=1, zero_channels=(1,)).to(device)
    return _dra(device, *how, method="at+dra", target=target)


@trainer("dra adr")
def _(device: str, *how: Any) -> BaseTrainer:
    return _dra(device, *how, method="at+adr")


@trainer("dra ikl")
def _(device: str, *how: Any) -> BaseTrainer:
    return _dra(device, *how, method="at+ikl")


@case("train/dra validation (32 images, 4 steps)")
def _(device: str) -> Step:
    made: Any = _dra(device, FAST, group())
    return lambda number: made.after_step(4 * (number + 1))


@trainer("edm")
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
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
    return EdmTrainer(settings, digits(device), seed=0, compute=compute, processes=processes)


MAE = MaeSettings(network="mae-digits", steps=10, batch_size=16, warmup_steps=1, crop_scale=0.5, flip=True)
BF16 = ComputeSettings(precision="bf16")


@trainer("mae", BF16)
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_models.training import MaeTrainer

    return MaeTrainer(MAE, digits(device), seed=0, compute=compute, processes=processes)


@trainer("nim", BF16)
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_purify.nim_training import NIMTrainer

    return NIMTrainer(MAE, digits(device), seed=0, compute=compute, processes=processes)


@trainer("maskdit", BF16)
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_models.training import MaskDitTrainer

    settings = MaskDitSettings(
        network="maskdit-digits",
        sizes={"width": 16, "heads": 2, "depth": 1, "decoder_width": 16, "decoder_depth": 1},
        num_classes=10,
        steps=10,
        unmasked_steps=2,
        batch_size=16,
    )
    return MaskDitTrainer(settings, digits(device), seed=0, compute=compute, processes=processes)


@trainer("standard classifier")
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
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
    return StandardTrainer(settings, digits(device), seed=0, compute=compute, processes=processes)


@trainer("finetune rmae (2 true steps)", ComputeSettings())
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_purify import Finetuner, MAEPure
    from rp_purify.settings import FinetuneSettings

    images = digits(device, 32)
    purifier = MAEPure(build("mae-digits").to(device), steps=2, step_size=0.02, eta=0.15, grad="ste-tanh")
    stored, settings = images.batch(slice(None))[0], FinetuneSettings(batch_size=16, steps=5)
    network = classifier(device)
    return Finetuner(settings, purifier, network, images, stored, compute=compute, processes=processes, seed=0)


@trainer("finetune rmaskdit (one denoising step)")
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_purify import Finetuner, OneStepDenoise
    from rp_purify.settings import FinetuneSettings

    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "depth": 1, "decoder_width": 16, "decoder_depth": 1}
    images, settings = digits(device, 32), FinetuneSettings(batch_size=16, steps=5)
    purifier = OneStepDenoise(build("maskdit-digits", **sizes).to(device), sigma=0.4)
    stored, network = images.batch(slice(None))[0], classifier(device)
    return Finetuner(settings, purifier, network, images, stored, compute=compute, processes=processes, seed=0)


def _tuner(settings: Any, device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_purify.tuning import DenoiserTuner

    denoiser, network = tiny_edm(0).to(device), classifier(device)
    return DenoiserTuner(settings, denoiser, network, digits(device), compute=compute, processes=processes, seed=0)


@trainer("tune adbm")
def _(device: str, *how: Any) -> BaseTrainer:
    from rp_purify.settings import ADBMTuningSettings

    return _tuner(ADBMTuningSettings(batch_size=16, warmup_steps=1), device, *how)


@trainer("tune addt")
def _(device: str, *how: Any) -> BaseTrainer:
    from rp_purify.settings import ADDTTuningSettings

    return _tuner(ADDTTuningSettings(batch_size=16, warmup_steps=1, adversary_steps=2), device, *how)


@trainer("encoder, noisy input", ComputeSettings())
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_dra.encoder_settings import EncoderSettings
    from rp_dra.encoder_trainer import NoisyClassifierTrainer
    from rp_models.diffusion.encoder_classifier import NoisyClassifier

    model, settings = NoisyClassifier(tiny_edm(0), 10), EncoderSettings(**SIZES)
    return NoisyClassifierTrainer(model, digits(device), settings, compute=compute, processes=processes, seed=0)


@trainer("encoder, fine-tuned adversarially")
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_dra import Trades
    from rp_dra.encoder_settings import EncoderSettings
    from rp_dra.encoder_trainer import EncoderFineTuner
    from rp_models.diffusion.encoder_classifier import DiffusionClassifier

    model, objective = DiffusionClassifier(tiny_edm(0), 10), Trades(steps=2)
    return EncoderFineTuner(
        model,
        digits(device),
        EncoderSettings(**SIZES),
        objective=objective,
        compute=compute,
        processes=processes,
        seed=0,
    )


@trainer("linear probe", ComputeSettings())
def _(device: str, compute: ComputeSettings, processes: Processes) -> BaseTrainer:
    from rp_dra import EdmTarget
    from rp_dra.encoder_settings import ProbeSettings
    from rp_dra.probe_trainer import ProbeTrainer

    target, settings = EdmTarget(tiny_edm(0), label="null").to(device), ProbeSettings(**SIZES)
    return ProbeTrainer(target, digits(device), settings, compute=compute, processes=processes, seed=0)


@case("train/fit probe (logistic regression)")
def _(device: str) -> Step:
    from rp_dra import EdmTarget, fit_probe

    target = EdmTarget(tiny_edm(0), label="null").to(device)
    return lambda number: fit_probe(target, digits(device, 32), seed=number)
