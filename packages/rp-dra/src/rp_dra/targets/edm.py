"""Features of EDM diffusion models, and of other networks with EDM's encoder."""

from rp_models.diffusion.edm_loss import EDMLoss
from rp_models.diffusion.encoder_classifier import NoisyClassifier
from rp_models.networks.unet_features import Feature
from torch import Tensor, nn

from rp_dra.targets.target import FrozenTarget, Label, Precision


class EdmTarget(FrozenTarget):
    """Features of a frozen EDM U-Net: one noisy pass through its encoder, averaged over space.

    Args:
        denoiser: an EDM network; it is frozen and put into eval mode.
        sigma: noise level in EDM's units (images in [-1, 1]).
        layer: "bottleneck" is the output of the last middle block, "before_up" that of the last block ahead of the
            first up-sampling; "enc_last" and "mid_in0" lie before them. The paper's words fit the first two.
        label: "class" conditions on the label, as the paper does in training; "null" on none.
        random_level: give a second representation of each image at a random noise level (see `represent`).
        P_mean: mean of ln sigma at a random level, as in the denoiser's training.
        P_std: its standard deviation.

    Source: Section 4.2 and Appendix D of the DRA paper.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        sigma: float = 0.1,
        layer: Feature = "bottleneck",
        label: Label = "class",
        random_level: bool = False,
        P_mean: float = -1.2,
        P_std: float = 1.2,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(label=label, precision=precision, random_level=random_level)
        if sigma <= 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.sigma, self.layer = sigma, layer
        self.levels = EDMLoss(P_mean, P_std)

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        if y is not None and getattr(self.denoiser, "label_dim", None) == 0:
            raise ValueError("the diffusion model is unconditional; build its target with label='null'")
        sigma = x.new_full((len(x),), self.sigma) if level is None else self.levels.sigma(level)
        noisy = 2.0 * x - 1.0 + sigma[:, None, None, None] * noise
        return self.denoiser.features(noisy, sigma, y, at=self.layer)  # type: ignore[operator]


class EncoderTarget(EdmTarget):
    """Features of a classifier with EDM's encoder that was trained on noisy images: a target without a diffusion model.

    The noise level is the one that the classifier was trained at, and the label is never shown to it.

    Args:
        classifier: trained, see `NoisyClassifier`; its encoder is frozen and put into eval mode.

    Source: Section 5.6 and Appendix E of the DRA paper, where this target makes the robust accuracy worse.
    """

    def __init__(self, classifier: NoisyClassifier, *, precision: Precision = "fp32") -> None:
        encoder = classifier.encoder
        super().__init__(
            encoder.denoiser, sigma=classifier.sigma, layer=encoder.layer, label="null", precision=precision
        )

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        if level is not None:
            raise ValueError(f"this encoder knows one noise level, {self.sigma}; pass level=None")
        return super()._features(x, y, noise, level)
