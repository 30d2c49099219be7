"""Preconditioners: turn a raw network F into a denoiser D(x, sigma) (Table 1 of Karras et al. 2022, arXiv:2206.00364).

D(x, sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma)), for data of standard deviation about 0.5,
that is images in [-1, 1].

Axes: b batch, c channels, h w image.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rp_models.diffusion.class_labels import one_hot_labels
from rp_models.networks.edm_unet import DhariwalUNet, SongUNet
from rp_models.networks.unet_features import Feature, UNet
from rp_models.settings import check_choice
from rp_models.values import as_values, check_values

_NETWORKS: dict[str, Callable[..., UNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class Coefficients(NamedTuple):
    """What scales the input, the output, the shortcut, and the network's noise input; all shaped like sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Precond(nn.Module):
    """What the three preconditioners share; a subclass defines `coefficients`. The defaults are those of `VEPrecond`.

    Args:
        img_resolution: height and width of the images.
        img_channels: channels of the images.
        label_dim: number of classes; 0 for an unconditional model.
        use_fp16: run the network in half precision on CUDA devices.
        sigma_min: lowest noise level that a sampler may use.
        sigma_max: highest one.
        model_type: "SongUNet" or "DhariwalUNet".
        **network: further arguments of the network.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        model_type: str = "SongUNet",
        **network: Any,
    ) -> None:
        super().__init__()
        check_choice("model_type", model_type, _NETWORKS)
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.augment_dim = int(network.get("augment_dim", 0))
        self.use_fp16 = use_fp16
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        out_channels = int(network.pop("out_channels", img_channels))
        self.model = _NETWORKS[model_type](img_resolution, img_channels, out_channels, label_dim=label_dim, **network)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
        noise_label: Tensor | float | None = None,
        force_fp32: bool = False,
    ) -> Tensor:
        """The denoised images D(x, sigma).

        Args:
            x: noisy images (b, c, h, w), data in [-1, 1] plus noise.
            sigma: standard deviation of the noise, positive; (b,), (b, 1, 1, 1) or one number for all.
            class_labels: class indices (b,) of an integer type, or one-hot (b, label_dim); None is the zero row.
            augment_labels: (b, augment_dim) from `rp_models.diffusion.edm_augment`; None for unaltered images.
            noise_label: what the network is told of the noise in place of c_noise(sigma), one number or (b,), for
                samplers whose table and label do not agree exactly.
            force_fp32: ignore `use_fp16`.

        Returns:
            Tensor (b, c, h, w), float32.

        Raises:
            ValueError: if a shape, sigma or a label does not fit.
        """
        x, c, labels = self._prepare(x, sigma, class_labels, augment_labels)
        label = c.c_noise.flatten() if noise_label is None else torch.as_tensor(noise_label).to(c.c_noise).reshape(-1)
        with self._precision(x.device, force_fp32):
            raw = self.model(c.c_in * x, label, labels, augment_labels)
        return self._output(x, c, raw.to(torch.float32))

    def features(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, *, at: Feature = "bottleneck"
    ) -> Tensor:
        """Features (b, channels, height, width) inside the network, at its lowest resolution; the rest is not computed.

        Arguments and errors as of `forward`; `at` is "enc_last", the last encoder block; "mid_in0" or "bottleneck", the
        first or last middle block; or "before_up", the last decoder block before the first up-sampling.
        """
        x, c, labels = self._prepare(x, sigma, class_labels, None)
        with self._precision(x.device, force_fp32=False):
            return self.model.features(c.c_in * x, c.c_noise.flatten(), labels, at=at).to(torch.float32)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The four scalings at noise levels of any shape."""
        raise NotImplementedError

    def _output(self, x: Tensor, c: Coefficients, raw: Tensor) -> Tensor:
        """D from the network's output."""
        return c.c_skip * x + c.c_out * raw

    def _prepare(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> tuple[Tensor, Coefficients, Tensor | None]:
        """Checked inputs: images in float32, the scalings (b or 1, 1, 1, 1), one-hot labels (b or 1, label_dim)."""
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if x.dim() != 4 or tuple(x.shape[1:]) != expected:
            raise ValueError(f"x must have shape (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        sigma = as_values(sigma, device=x.device, dtype=torch.float32).reshape(-1, 1, 1, 1)
        if len(sigma) not in (1, len(x)):
            raise ValueError(f"sigma must hold one value, or one for each of the {len(x)} images, got {len(sigma)}")
        check_values(
            sigma,
            lambda sigma: sigma > 0,
            lambda sigma: f"sigma must be positive, got a minimum of {float(sigma.min())}",
        )
        if augment_labels is not None and augment_labels.shape != (len(x), self.augment_dim):
            raise ValueError(
                f"augment_labels must have shape ({len(x)}, {self.augment_dim}), the network's augment_dim, "
                f"got {tuple(augment_labels.shape)}"
            )
        labels = one_hot_labels(class_labels, self.label_dim, x)
        return x.to(torch.float32), self.coefficients(sigma), labels

    def _precision(self, device: torch.device, force_fp32: bool) -> AbstractContextManager[None]:
        """Half precision for the network where it is wanted and pays; otherwise what the caller has set."""
        half = self.use_fp16 and not force_fp32 and device.type == "cuda"
        return torch.autocast("cuda", torch.float16) if half else nullcontext()


class EDMPrecond(Precond):
    """EDM's own preconditioning: unit-variance input and training target at every noise level.

    Args:
        sigma_data: standard deviation of the data.
        others: see `Precond`.

    Source: Section 5 and Table 1 of Karras et al. 2022, arXiv:2206.00364.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        *,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **others: Any,
    ) -> None:
        others |= {"sigma_min": sigma_min, "sigma_max": sigma_max, "model_type": model_type}
        super().__init__(img_resolution, img_channels, **others)
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The four scalings at noise levels of any shape."""
        variance = sigma.square() + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / variance,
            c_out=sigma * self.sigma_data / variance.sqrt(),
            c_in=1 / variance.sqrt(),
            c_noise=sigma.log() / 4,
        )


class VPPrecond(Precond):
    """The variance-preserving model of Song et al. in EDM's terms.

    Args:
        beta_d: slope of the noise schedule.
        beta_min: its start.
        M: number of time steps the network was trained with.
        epsilon_t: smallest time.
        others: see `Precond`.

    Source: Appendix C.1 of Karras et al. 2022, arXiv:2206.00364.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        *,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
        **others: Any,
    ) -> None:
        # the limits are the reference's float32 values, also while a model is built on the meta device
        sigma_min, sigma_max = vp_sigma(torch.tensor([epsilon_t, 1.0], device="cpu"), beta_d, beta_min).tolist()
        super().__init__(img_resolution, img_channels, sigma_min=sigma_min, sigma_max=sigma_max, **others)
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The four scalings at noise levels of any shape."""
        variance = sigma.square() + 1
        time = ((self.beta_min**2 + 2 * self.beta_d * variance.log()).sqrt() - self.beta_min) / self.beta_d
        return Coefficients(
            c_skip=torch.ones_like(sigma), c_out=-sigma, c_in=1 / variance.sqrt(), c_noise=(self.M - 1) * time
        )


class VEPrecond(Precond):
    """The variance-exploding model of Song et al. in EDM's terms. Arguments: see `Precond`.

    Source: Appendix C.2 of Karras et al. 2022, arXiv:2206.00364.
    """

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The four scalings at noise levels of any shape."""
        one = torch.ones_like(sigma)
        return Coefficients(c_skip=one, c_out=sigma, c_in=one, c_noise=(sigma / 2).log())


def vp_sigma(t: Tensor, beta_d: float = 19.9, beta_min: float = 0.1) -> Tensor:
    """The noise level of the variance-preserving schedule at times in (0, 1] (Table 1 of arXiv:2206.00364)."""
    return ((beta_d / 2 * t.square() + beta_min * t).exp() - 1).sqrt()
