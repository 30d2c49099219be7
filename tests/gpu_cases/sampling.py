"""Every sampler."""

import torch
from rp_models import build

from tests.gpu_cases.case import Step, case, tiny_edm


@case("sample/edm heun 6 steps")
def _(device: str) -> Step:
    from rp_models.diffusion.sampling import generate

    model = tiny_edm().to(device).eval()
    return lambda number: generate(
        model, torch.arange(8) % 10, channels=1, image_size=8, steps=6, seed=number, batch_size=8
    )


@case("sample/maskdit heun guided 6 steps")
def _(device: str) -> Step:
    from rp_models.diffusion.sampler_settings import HeunSettings
    from rp_models.diffusion.samplers import sampler_of
    from rp_models.diffusion.sampling import sample_images

    torch.manual_seed(0)
    model = build("maskdit-digits", num_classes=10).to(device).eval()
    sampler = sampler_of(model, heun=HeunSettings(steps=6, guidance=1.5, S_churn=4.0))
    return lambda number: sample_images(
        sampler, range(8), torch.arange(8) % 10, seed=number, batch_size=8, device=device
    )


@case("sample/lightningdit euler 6 points")
def _(device: str) -> Step:
    from rp_models.diffusion.sampler_settings import FlowSettings
    from rp_models.diffusion.samplers import LatentDecoder, sampler_of
    from rp_models.diffusion.sampling import sample_images
    from rp_models.networks.lightningdit import LightningDiT
    from rp_models.networks.vae import AutoencoderKL, LatentNormalization

    torch.manual_seed(0)
    vae = AutoencoderKL(width=32, multipliers=[1, 2], attention=[False, False], z_channels=4, in_channels=1, blocks=1)
    dit = LightningDiT(image_size=4, in_channels=4, width=48, depth=2, heads=2, num_classes=10, patch_size=1)
    decoder = LatentDecoder(vae, LatentNormalization(4)).to(device)
    sampler = sampler_of(dit.to(device).eval(), flow=FlowSettings(points=6, guidance=1.5), decoder=decoder)
    return lambda number: sample_images(
        sampler, range(8), torch.arange(8) % 10, seed=number, batch_size=8, device=device
    )
