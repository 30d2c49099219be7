"""Classifiers made of the encoder of an EDM diffusion model: fine-tuned adversarially, or trained on noisy images.

Both are comparisons of the paper's: should one not fine-tune the diffusion encoder itself, and would an encoder that
saw noisy images, but was trained to classify, not be as good a target?

Axes: b batch, c channels, h w image, d features, k classes.

Source: Section 5.6 and Appendix E of the DRA paper.
"""

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from rp_models import noise as randomness
from rp_models.diffusion.precondition import Precond
from rp_models.networks.edm_layers import UNetBlock
from rp_models.networks.edm_unet import DhariwalUNet
from rp_models.networks.unet_features import Feature, UNet
from rp_models.zoo import Recipe, build_entry

Head = Literal["linear", "mlp"]


class EdmEncoder(nn.Module):
    """An EDM network up to its bottleneck, without what comes after it, and the average over space.

    Args:
        denoiser: the network; a copy of it is cut off, the given one stays whole.
        layer: where the features are taken, as in `EdmTarget`, but not behind the middle blocks.
        dropout: of all blocks, in train mode; None keeps the network's own.
    """

    def __init__(self, denoiser: Precond, *, layer: Feature = "bottleneck", dropout: float | None = None) -> None:
        super().__init__()
        if layer not in ("enc_last", "mid_in0", "bottleneck"):
            raise ValueError(f"layer must be enc_last, mid_in0 or bottleneck, got {layer!r}")
        self.layer = layer
        self.denoiser = copy.deepcopy(denoiser).requires_grad_()
        _cut(self.denoiser.model, layer)
        if dropout is not None:
            for module in self.denoiser.model.modules():
                if isinstance(module, UNetBlock):
                    module.dropout = dropout

    @property
    def width(self) -> int:
        """The number of features d: the channels at the lowest resolution."""
        last = list(self.denoiser.model.enc.values())[-1]
        assert isinstance(last, UNetBlock)
        return last.conv1.out_channels

    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        """Unconditional features (b, d) of noisy images (b, c, h, w), data in [-1, 1] plus noise of that deviation."""
        return self.denoiser.features(noisy, sigma, None, at=self.layer).mean(dim=(2, 3))


class EncoderClassifier(nn.Module):
    """An EDM encoder with a classification head, told a fixed noise level; a subclass says which noise it sees.

    `rp_models.save` and `load` keep it if its denoiser was built by name.

    Args:
        denoiser: the EDM network whose encoder is copied.
        sigma: noise level in EDM's units (images in [-1, 1]).
        head: "linear", or "mlp" with one hidden layer of the features' width.
    """

    entry: ClassVar[str]  # the zoo's name of the subclass

    def __init__(
        self,
        denoiser: Precond,
        num_classes: int,
        *,
        sigma: float = 0.1,
        layer: Feature = "bottleneck",
        head: Head = "linear",
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        if head not in get_args(Head):
            raise ValueError(f"head must be 'linear' or 'mlp', got {head!r}")
        self.sigma = sigma
        self.encoder = EdmEncoder(denoiser, layer=layer, dropout=dropout)
        width = self.encoder.width
        self.head: nn.Module = nn.Linear(width, num_classes) if head == "linear" else MlpHead(width, num_classes)
        options = {"num_classes": num_classes, "sigma": sigma, "layer": layer, "head": head, "dropout": dropout}
        self._remember(denoiser, options)

    def _remember(self, denoiser: Precond, options: dict[str, Any]) -> None:
        """What a checkpoint names: the zoo's entry and its arguments, if the denoiser came from the zoo."""
        network = getattr(denoiser, "recipe", None)
        if isinstance(network, Recipe):
            known = {"network": network.name, "network_arguments": network.arguments}
            self.recipe = Recipe(self.entry, known | options)

    def encode(self, x: Tensor, eps: Tensor | None) -> Tensor:
        """Features (b, d) of images x (b, c, h, w) in [0, 1] under standard normal noise like x; None for no noise."""
        noisy = 2.0 * x - 1.0
        return self.encoder(noisy if eps is None else noisy + self.sigma * eps, self.sigma)


class DiffusionClassifier(EncoderClassifier):
    """A pre-trained diffusion encoder as an ordinary classifier, to be fine-tuned by any objective.

    A deterministic function of one image. The paper does not say whether the fine-tuned encoder sees noise; by default
    it sees none and is told the level `sigma`, so that no randomness can hide a weakness. Labels are never given to it:
    a deployed encoder has none, which the paper counts among its disadvantages.

    Args:
        denoiser: the pre-trained EDM network whose encoder is copied.
        noise_seed: of one noise tensor that is added to all images, as in `DiffusionProbe`; None for no noise.
        dropout: of the encoder's blocks; by default none, because an attack on one random network says little about the
            next.

    Source: Section 5.6 of the DRA paper.
    """

    entry = "diffusion-classifier"
    eps: Tensor | None

    def __init__(
        self,
        denoiser: Precond,
        num_classes: int,
        *,
        noise_seed: int | None = None,
        dropout: float | None = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(denoiser, num_classes, dropout=dropout, **options)
        eps = None
        if noise_seed is not None:
            shape = (denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution)
            eps = randomness.normal(
                shape, seed=noise_seed, purpose="encoder noise", index=torch.zeros(1, dtype=torch.int64)
            )
        self.register_buffer("eps", eps)
        if hasattr(self, "recipe"):
            self.recipe = self.recipe._replace(arguments={**self.recipe.arguments, "noise_seed": noise_seed})

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (b, d) of images (b, c, h, w) in [0, 1]."""
        return self.encode(x, None if self.eps is None else self.eps.expand_as(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k) of images (b, c, h, w) in [0, 1]."""
        return self.head(self.forward_features(x))


class NoisyClassifier(EncoderClassifier):
    """A classifier with a diffusion model's encoder, for images with Gaussian noise: Appendix E's comparison.

    Its noise is an argument, so that training and alignment draw it outside; `with_noise` makes it a random classifier
    of clean images, for attacks and evaluations. To train it as the paper does, give it a network with fresh weights
    and without labels, e.g. `build_edm(replace(settings, conditional=False), images)`.
    """

    entry = "noisy-classifier"

    def forward_features(self, x: Tensor, *, noise: Tensor) -> Tensor:
        """Features (b, d) of images (b, c, h, w) in [0, 1] under standard normal noise like x."""
        return self.encode(x, noise)

    def forward(self, x: Tensor, *, noise: Tensor) -> Tensor:
        """Logits (b, k); arguments as in `forward_features`."""
        return self.head(self.forward_features(x, noise=noise))

    def with_noise(self, *, seed: int, index: Tensor) -> Callable[[Tensor], Tensor]:
        """The classifier of clean images whose noise is a function of (seed, index of the image)."""
        return lambda x: self(
            x, noise=randomness.normal(x.shape[1:], seed=seed, purpose="noisy classifier", index=index)
        )


class MlpHead(nn.Sequential):
    """Two linear layers with SiLU between them."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, num_classes))
        self.in_features = width


def diffusion_classifier(*, network: str, network_arguments: dict[str, Any], **options: Any) -> DiffusionClassifier:
    """A `DiffusionClassifier` around a network of the zoo with fresh weights, as a checkpoint names it."""
    return DiffusionClassifier(_denoiser(network, network_arguments), **options)


def noisy_classifier(*, network: str, network_arguments: dict[str, Any], **options: Any) -> NoisyClassifier:
    """A `NoisyClassifier` around a network of the zoo with fresh weights, as a checkpoint names it."""
    return NoisyClassifier(_denoiser(network, network_arguments), **options)


def _denoiser(network: str, arguments: dict[str, Any]) -> Precond:
    built = build_entry(network, **arguments)
    if not isinstance(built, Precond):
        raise ValueError(f"network must name an EDM network, got {network}, a {type(built).__name__}")
    return built


def _cut(network: UNet, layer: Feature) -> None:
    """Remove from an EDM U-Net what lies behind a layer, so that it is neither stored nor trained."""
    kept = {"enc_last": (), "mid_in0": ("_in0",), "bottleneck": ("_in0", "_in1")}[layer]
    for name in [name for name in network.dec if not name.endswith(kept)]:
        del network.dec[name]
    # augmentation labels are a matter of training the diffusion model
    network.map_augment = None  # type: ignore[assignment]
    if isinstance(network, DhariwalUNet):
        del network.out_norm, network.out_conv
