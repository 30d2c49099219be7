"""Networks for larger images from timm, as classifiers of images in [0, 1]: DINOv3 ViT, ConvNeXt, ResNet.

timm is imported when such a network is built, not before.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from rp_models.networks.normalization import Normalize


class Backbone(nn.Module):
    """A network of timm with its input normalisation inside; its state dict is timm's own, key by key.

    Weights are fresh; official ones are filled in with `load_state_dict`. ResNets share their keys with torchvision's.

    Args:
        model: timm's name, e.g. "vit_base_patch16_dinov3", "convnext_base", "resnet50".
        num_classes: number of logits; 0 for no head (the features come out).
        in_channels: image channels.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none.
        std: per-channel standard deviation; None with `mean=None`.
        options: further arguments of `timm.create_model`, e.g. `{"drop_path_rate": 0.1}`.

    Raises:
        ImportError: without timm.
        ValueError: if timm has no network of that name.
    """

    def __init__(
        self,
        model: str,
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        timm = _import_timm()
        if not timm.is_model(model):
            raise ValueError(f"timm {timm.__version__} has no network {model!r}; timm.list_models('*...*') lists them")
        self.normalize = Normalize(in_channels, mean, std)
        self.network = timm.create_model(model, num_classes=num_classes, in_chans=in_channels, **(options or {}))
        patch_embed = getattr(self.network, "patch_embed", None)
        self.patch_size: tuple[int, int] = getattr(patch_embed, "patch_size", (1, 1))
        self.register_state_dict_post_hook(_drop_network_prefix)
        self.register_load_state_dict_pre_hook(_add_network_prefix)

    @property
    def head(self) -> nn.Module:
        """The last layer, from features to logits."""
        return self.network.get_classifier()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, d).

        Raises:
            ValueError: for another number of channels, or a size that the patches do not divide.
        """
        x = self.normalize(x)
        if x.shape[2] % self.patch_size[0] or x.shape[3] % self.patch_size[1]:
            raise ValueError(
                f"height and width must be divisible by the patch size {self.patch_size}, got {tuple(x.shape[2:])}"
            )
        return self.network.forward_head(self.network.forward_features(x), pre_logits=True)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to logits (b, k)."""
        return self.head(self.forward_features(x))


def _import_timm() -> ModuleType:
    """The timm package, or an error that says how to get it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError("this network comes from timm; install it with: pip install 'rp-models[timm]'") from error
    return timm


def _drop_network_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """`network.stem.0.weight` leaves the module as `stem.0.weight`."""
    for key in [key for key in state if key.startswith(prefix + "network.")]:
        state[prefix + key.removeprefix(prefix + "network.")] = state.pop(key)


def _add_network_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """`stem.0.weight` enters the module as `network.stem.0.weight`."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + "network." + key.removeprefix(prefix)] = state.pop(key)
