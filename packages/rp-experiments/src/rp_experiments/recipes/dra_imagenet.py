"""Recipes for ImageNet: robust fine-tuning of two pre-trained networks with LightningDiT's images and features.

Files that have to be at hand: `--data-root` (train/ and val/ with a folder a synset), `--synthetic.paths` (four
million images of 256 pixels from `generate.py`), the weights of LightningDiT, of its VA-VAE and the latents' statistics
after `convert.py`, and the classifier's (`--classifier.pretrained`: a file, or "timm" to download them).

Sources: Section 5.1, Appendices B and D of the DRA paper. What it leaves open is marked so.
"""

from collections.abc import Callable
from dataclasses import replace

from rp_dra.settings import AlignmentSettings, ClassifierSettings, TrainingSettings
from rp_models.settings import ComputeSettings

from rp_experiments.recipes.dra_settings import EvaluationSettings, SyntheticSettings, TrainDra


def imagenet_convnext_b() -> TrainDra:
    """ConvNeXt-B: 100 epochs of 3-step TRADES with beta 10 by Lion, radius 4/255.

    Open, and so chosen: batch 1024, rate 2e-5 with a cosine after 5 epochs, weight decay 0.5, half of each batch
    synthetic, attack steps of 2/255, random parts of at least a quarter of the image, gradients clipped to norm 1;
    label smoothing and averaging of the weights are those of the small images.
    """
    eps = 4 / 255
    return TrainDra(
        data="imagenet",
        method=("dm-at", "dm-at+dra"),
        synthetic=SyntheticSettings(images=4_000_000, paths=("imagenet-256/lightningdit-*.npz",), image_size=256),
        classifier=ClassifierSettings(
            network="convnext-b", arguments={"model": "convnext_base.dinov3_lvd1689m"}, pretrained="timm"
        ),
        training=TrainingSettings(
            epochs=100,
            batch_size=1024,
            synthetic_fraction=0.5,
            optimizer="lion",
            lr=2e-5,
            weight_decay=0.5,
            undecayed="vectors",
            schedule="cosine",
            warmup=0.05,
            beta=10.0,
            eps=eps,
            step_size=2 / 255,
            attack_steps=3,
            crop_padding=0,
            resized_crop=(0.25, 1.0),
            validation_steps=10,
            validate_every=5,
        ),
        compute=ComputeSettings(precision="bf16", compile=True, channels_last=True, clip_norm=1.0),
        alignment=AlignmentSettings(
            target="lightningdit",
            checkpoint="lightningdit-xl-1",
            autoencoder="vavae-f16d32",
            latent_statistics="vavae-latent-statistics",
            random_level="no",
            precision="bf16",
        ),
        evaluation=EvaluationSettings(eps=eps, images=5_000, batch_size=64),
    )


def imagenet_vit_b16() -> TrainDra:
    """ViT-B/16 of DINOv3, otherwise the same."""
    base = imagenet_convnext_b()
    return replace(
        base,
        classifier=ClassifierSettings(
            network="vit-b16-dinov3", arguments={"model": "vit_base_patch16_dinov3.lvd1689m"}, pretrained="timm"
        ),
        compute=replace(base.compute, channels_last=False),
    )


IMAGENET: dict[str, Callable[[], TrainDra]] = {
    "imagenet-convnext-b": imagenet_convnext_b,
    "imagenet-vit-b16": imagenet_vit_b16,
}
