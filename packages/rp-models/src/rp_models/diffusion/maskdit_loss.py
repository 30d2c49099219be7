"""MaskDiT's loss: denoising on the visible patches, reconstruction of the noisy input on the masked ones.

Source: Zheng et al. 2023, arXiv:2306.09305, section 3; noise levels and weights: Karras et al. 2022, arXiv:2206.00364.
"""

from typing import NamedTuple

from torch import Tensor

from rp_models.diffusion.maskdit import MaskDiT
from rp_models.mask import Mask
from rp_models.networks.transformer import patchify


class LossTerms(NamedTuple):
    """The two terms of the loss.

    Attributes:
        denoising: (b,), EDM's weighted squared error, averaged over the visible patches.
        reconstruction: (b,), squared error against the normalised noisy patches, averaged over the masked patches.
    """

    denoising: Tensor
    reconstruction: Tensor


def log_normal_sigma(normal: Tensor, *, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """Training noise levels exp(std * normal + mean) from standard normal draws, in their shape."""
    return (std * normal + mean).exp()


def masked_denoising_loss(
    denoiser: MaskDiT,
    clean: Tensor,
    class_labels: Tensor | None = None,
    *,
    sigma: Tensor,
    noise: Tensor,
    mask: Mask | None = None,
    mae_weight: float = 0.1,
) -> Tensor:
    """The training loss per image (b,): `denoising + mae_weight * reconstruction` of `masked_denoising_terms`.

    Without a mask the mask token gets no gradient; freeze it (`requires_grad_(False)`) to train that way under DDP.
    """
    terms = masked_denoising_terms(denoiser, clean, class_labels, sigma=sigma, noise=noise, mask=mask)
    return terms.denoising if mask is None else terms.denoising + mae_weight * terms.reconstruction


def masked_denoising_terms(
    denoiser: MaskDiT,
    clean: Tensor,
    class_labels: Tensor | None = None,
    *,
    sigma: Tensor,
    noise: Tensor,
    mask: Mask | None = None,
) -> LossTerms:
    """Both terms of the loss per image, from draws made outside.

    The reconstruction's target is the noisy input, each patch normalised by its own mean and unbiased variance; its
    prediction is the denoiser's output as it is. Gradients flow to `clean` through input and both targets.

    Args:
        denoiser: the model.
        clean: data (b, c, h, w): latents, or images scaled to [-1, 1].
        class_labels: as in `MaskDiT.forward`; to train for guidance, one-hot rows of which a tenth are set to zero.
        sigma: noise levels (b,), e.g. from `log_normal_sigma`.
        noise: standard normal draws (b, c, h, w).
        mask: which patches are masked; without it all are visible and the reconstruction term is 0.
    """
    p = denoiser.patch_size
    sigma = sigma.flatten()
    noisy = clean + sigma.view(-1, 1, 1, 1) * noise
    denoised = denoiser(noisy, sigma, class_labels, mask=mask)
    weight = (sigma**2 + denoiser.sigma_data**2) / (sigma * denoiser.sigma_data) ** 2
    error = weight[:, None] * patchify((denoised - clean) ** 2, p).mean(dim=-1)  # b n
    if mask is None:
        return LossTerms(error.mean(dim=1), error.new_zeros(len(error)))
    target = patchify(noisy, p)
    target = (target - target.mean(dim=-1, keepdim=True)) * (target.var(dim=-1, keepdim=True) + 1e-6).rsqrt()
    misfit = ((patchify(denoised, p) - target) ** 2).mean(dim=-1)  # b n
    return LossTerms(_mean_over(error, 1 - mask.mask), _mean_over(misfit, mask.mask))


def _mean_over(values: Tensor, selection: Tensor) -> Tensor:
    """Mean of values (b, n) where selection (b, n) is 1; 0 where nothing is selected."""
    return (values * selection).sum(dim=1) / selection.sum(dim=1).clamp(min=1)
