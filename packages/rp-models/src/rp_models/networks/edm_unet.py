"""The two U-Nets of EDM: `SongUNet` (DDPM++ and NCSN++) and `DhariwalUNet` (ADM).

Axes: b batch, c channels, h w image, e embedding width.

Source: Appendix F.1 of Karras et al. 2022, arXiv:2206.00364.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.edm_layers import (
    FourierEmbedding,
    PositionalEmbedding,
    ResampleConv2d,
    UNetBlock,
    group_norm,
)
from rp_models.networks.unet_features import UNet
from rp_models.settings import check_choice


class SongUNet(UNet):
    """The DDPM++ and NCSN++ networks; EDM's choice for CIFAR-10, FFHQ and AFHQv2.

    Args:
        img_resolution: height and width of the images.
        in_channels: channels of the input.
        out_channels: channels of the output.
        label_dim: number of classes; 0 for none.
        augment_dim: number of augmentation labels; 0 for none.
        model_channels: base width.
        channel_mult: width of each stage in multiples of `model_channels`.
        channel_mult_emb: width of the embedding in multiples of `model_channels`.
        num_blocks: residual blocks of an encoder stage.
        attn_resolutions: resolutions with self-attention.
        dropout: in the residual blocks.
        label_dropout: probability of dropping an image's class label in training.
        embedding_type: "positional" (DDPM++) or "fourier" (NCSN++).
        channel_mult_noise: width of the noise embedding in multiples of `model_channels`; 2 for NCSN++.
        encoder_type: "standard" (DDPM++), "residual" (NCSN++) or "skip": how the shrunk input is added again.
        decoder_type: "standard", or "skip" for an output summed over the stages.
        resample_filter: taps; (1, 1) for DDPM++, (1, 3, 3, 1) for NCSN++.

    Source: Song et al. 2021, arXiv:2011.13456, as changed in Appendix F.1 of arXiv:2206.00364.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "skip", "residual"] = "standard",
        decoder_type: Literal["standard", "skip"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__(img_resolution, channel_mult, num_blocks, attn_resolutions, label_dropout)
        check_choice("embedding_type", embedding_type, ("positional", "fourier"))
        check_choice("encoder_type", encoder_type, ("standard", "skip", "residual"))
        check_choice("decoder_type", decoder_type, ("standard", "skip"))
        self.encoder_type = encoder_type
        self.decoder_type = decoder_type
        self.resample_filter = list(resample_filter)
        self.out_channels = out_channels
        self._aux_channels = in_channels
        emb_channels = model_channels * channel_mult_emb
        noise_channels = model_channels * channel_mult_noise
        self._build_embedding(embedding_type, label_dim, augment_dim, noise_channels, emb_channels)

        block = partial(
            UNetBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            resample_filter=resample_filter,
            resample_proj=True,
            adaptive_scale=False,
        )
        widths = [model_channels * multiple for multiple in channel_mult]
        self._build_stages(in_channels, model_channels, widths, block, lambda _: 1, attend_last_only=True)
        self._initialise()

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """The conditioning (b or 1, e) of all blocks; arguments as in `forward`."""
        emb = self.map_noise(noise_labels)
        emb = emb.unflatten(1, (2, -1)).flip(1).flatten(1)  # this network wants sines first
        if self.map_label is not None and class_labels is not None:
            emb = emb + self.map_label(self._drop_labels(class_labels) * math.sqrt(self.map_label.in_features))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def _build_embedding(
        self, kind: Literal["positional", "fourier"], labels: int, augmentations: int, width: int, emb_channels: int
    ) -> None:
        """Add the layers of `embed`: noise level, class and augmentation in `width` channels, then two layers."""
        positional = kind == "positional"
        self.map_noise = PositionalEmbedding(width, endpoint=True) if positional else FourierEmbedding(width)
        self.map_label = nn.Linear(labels, width) if labels else None
        self.map_augment = nn.Linear(augmentations, width, bias=False) if augmentations else None
        self.map_layer0 = nn.Linear(width, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)

    def _build_aux(self, stage: str, width: int) -> None:
        """Add the layers that bring the shrunk input back into the encoder."""
        source = self._aux_channels
        down = partial(ResampleConv2d, direction="down", resample_filter=self.resample_filter)
        if self.encoder_type == "residual":
            self.enc[f"{stage}_aux_residual"] = down(source, width, 3, conv_first=True)
            self._aux_channels = width
        elif self.encoder_type == "skip":
            self.enc[f"{stage}_aux_down"] = down(source, source, 0)
            self.enc[f"{stage}_aux_skip"] = nn.Conv2d(source, width, 1)

    def _add_aux(self, stage: str, h: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Features with the shrunk input added, and the shrunk input."""
        if self.encoder_type == "residual":
            h = (h + self.enc[f"{stage}_aux_residual"](aux)) * math.sqrt(0.5)
            return h, h
        if self.encoder_type == "skip":
            aux = self.enc[f"{stage}_aux_down"](aux)
            return h + self.enc[f"{stage}_aux_skip"](aux), aux
        return h, aux

    def _reads_out(self, stage: str) -> bool:
        return self.decoder_type == "skip" or stage == self._stages[0]

    def _build_read_out(self, stage: str, width: int) -> None:
        if not self._reads_out(stage):
            return
        if self.decoder_type == "skip" and stage != self._stages[-1]:
            channels, taps = self.out_channels, self.resample_filter
            up = ResampleConv2d(channels, channels, 0, direction="up", resample_filter=taps)
            self.dec[f"{stage}_aux_up"] = up
        self.dec[f"{stage}_aux_norm"] = group_norm(width, eps=1e-6)
        self.dec[f"{stage}_aux_conv"] = nn.Conv2d(width, self.out_channels, 3, padding=1)

    def _read_out(self, stage: str, h: Tensor, output: Tensor | None) -> Tensor | None:
        if not self._reads_out(stage):
            return output
        image = self.dec[f"{stage}_aux_conv"](F.silu(self.dec[f"{stage}_aux_norm"](h)))
        return image if output is None else image + self.dec[f"{stage}_aux_up"](output)

    def _initialise(self) -> None:
        """Xavier-uniform weights and zero biases; the last layer of each branch starts near zero."""
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d | ResampleConv2d) or module.weight is None:
                continue
            gain = 1.0
            if name.endswith((".conv1", ".proj", "_aux_conv")):
                gain = 1e-5
            elif name.endswith(".qkv"):
                gain = math.sqrt(0.2)
            nn.init.xavier_uniform_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class DhariwalUNet(UNet):
    """The ADM network; EDM's choice for ImageNet at 64x64. Arguments: see `SongUNet`.

    Attention has one head for every 64 channels, and there is none in blocks narrower than that.

    Source: Dhariwal and Nichol 2021, arXiv:2105.05233.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(img_resolution, channel_mult, num_blocks, attn_resolutions, label_dropout)
        emb_channels = model_channels * channel_mult_emb
        self.map_noise = PositionalEmbedding(model_channels, endpoint=False)
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        self.map_label = nn.Linear(label_dim, emb_channels, bias=False) if label_dim else None

        block = partial(UNetBlock, emb_channels=emb_channels, dropout=dropout)
        widths = [model_channels * multiple for multiple in channel_mult]
        self._build_stages(in_channels, widths[0], widths, block, lambda width: width // 64, attend_last_only=False)
        self.out_norm = group_norm(widths[0], eps=1e-5)
        self.out_conv = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        self._initialise()

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """The conditioning (b or 1, e) of all blocks; arguments as in `forward`."""
        emb = self.map_noise(noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and class_labels is not None:
            emb = emb + self.map_label(self._drop_labels(class_labels))
        return F.silu(emb)

    def _build_read_out(self, stage: str, width: int) -> None:
        """Nothing here: this network's output layers stand beside the decoder."""

    def _read_out(self, stage: str, h: Tensor, output: Tensor | None) -> Tensor | None:
        return self.out_conv(F.silu(self.out_norm(h))) if stage == self._stages[0] else None

    def _initialise(self) -> None:
        """Torch's own initialisation, but zero for the last layer of each branch and unit normal for the labels."""
        for name, module in self.named_modules():
            if name.endswith((".conv1", ".proj")) or name in ("out_conv", "map_augment"):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)
