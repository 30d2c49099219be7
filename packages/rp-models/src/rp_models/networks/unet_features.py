"""The walk through EDM's U-Nets: encoder and decoder stages, one a resolution, and the forward that stops half-way.

Module names are those of the public reference: encoder and decoder are dictionaries whose keys name the resolution and
the block, e.g. `enc.16x16_block0`. The decoder's `in0` and `in1` at the lowest resolution are the middle blocks.

Axes: b batch, c channels, h w image, e embedding width.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rp_models.networks.edm_layers import UNetBlock
from rp_models.settings import check_choice

Feature = Literal["enc_last", "mid_in0", "bottleneck", "before_up"]


class UNet(nn.Module):
    """What both architectures share: the stages (one a resolution), the walk through them, the partial forward.

    Args:
        img_resolution: height and width of the images, divisible by 2 once for each level after the first.
        channel_mult: width of each stage in multiples of the model's channels.
        num_blocks: residual blocks of an encoder stage; a decoder stage has one more.
        attn_resolutions: resolutions with self-attention.
        label_dropout: probability of dropping an image's class label in training.
    """

    def __init__(
        self,
        img_resolution: int,
        channel_mult: Sequence[int],
        num_blocks: int,
        attn_resolutions: Sequence[int],
        label_dropout: float,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        if levels < 1 or img_resolution < 1 or img_resolution % 2 ** (levels - 1):
            raise ValueError(
                f"channel_mult={list(channel_mult)} makes {levels} levels, which need an img_resolution that is a "
                f"multiple of {2 ** max(0, levels - 1)}, got {img_resolution}"
            )
        self.num_blocks = num_blocks
        self.attn_resolutions = list(attn_resolutions)
        self.label_dropout = label_dropout
        self.resolutions = [img_resolution >> level for level in range(levels)]

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """The raw network output F (b, out_channels, h, w) of scaled noisy images.

        The noise conditioning is (b,) or (1,), class labels are one-hot rows, augmentation labels (b, augment_dim);
        None leaves a label out, which for the augmentation equals zeros.
        """
        emb = self.embed(noise_labels, class_labels, augment_labels)
        h, skips = self._encode(x, emb)
        return self._decode(self._middle(h, emb), skips, emb)

    def features(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        *,
        at: Feature = "bottleneck",
    ) -> Tensor:
        """The output (b, c, h', w') of one block at the lowest resolution; nothing after it is computed.

        Other arguments: see `forward`; `at` is "enc_last", the last encoder block; "mid_in0" or "bottleneck", the first
        or last middle block; or "before_up", the last decoder block before the first up-sampling.
        """
        check_choice("at", at, get_args(Feature))
        emb = self.embed(noise_labels, class_labels, augment_labels)
        h, skips = self._encode(x, emb)
        if at == "enc_last":
            return h
        if at == "mid_in0":
            return self.dec[f"{self._stages[-1]}_in0"](h, emb)
        h = self._middle(h, emb)
        return h if at == "bottleneck" else self._decode_stage(self._stages[-1], h, skips, emb)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """The conditioning (b or 1, e) of all blocks; arguments as in `forward`."""
        raise NotImplementedError

    @property
    def _stages(self) -> list[str]:
        """The stages as they are called in the module names, e.g. `32x32`."""
        return [f"{resolution}x{resolution}" for resolution in self.resolutions]

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's last output, and all outputs that the decoder concatenates, in order."""
        h = aux = x
        skips = []
        for level, stage in enumerate(self._stages):
            if level == 0:
                h = self.enc[f"{stage}_conv"](h)
            else:
                h = self.enc[f"{stage}_down"](h, emb)
                h, aux = self._add_aux(stage, h, aux)
            skips.append(h)
            for i in range(self.num_blocks):
                h = self.enc[f"{stage}_block{i}"](h, emb)
                skips.append(h)
        return h, skips

    def _middle(self, h: Tensor, emb: Tensor) -> Tensor:
        lowest = self._stages[-1]
        return self.dec[f"{lowest}_in1"](self.dec[f"{lowest}_in0"](h, emb), emb)

    def _decode(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """From the output of the middle blocks to that of the network."""
        output = None
        for level, stage in reversed(list(enumerate(self._stages))):
            if level < len(self._stages) - 1:
                h = self.dec[f"{stage}_up"](h, emb)
            h = self._decode_stage(stage, h, skips, emb)
            output = self._read_out(stage, h, output)
        assert output is not None
        return output

    def _decode_stage(self, stage: str, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """The blocks of one decoder stage; takes their skip inputs off the end of `skips`."""
        for i in range(self.num_blocks + 1):
            h = self.dec[f"{stage}_block{i}"](torch.cat([h, skips.pop()], dim=1), emb)
        return h

    def _build_stages(
        self,
        in_channels: int,
        stem_channels: int,
        widths: Sequence[int],
        block: Callable[..., UNetBlock],
        heads: Callable[[int], int],
        *,
        attend_last_only: bool,
    ) -> None:
        """Fill `enc` and `dec`; `block` makes their residual blocks, `heads` tells the attention heads of a width."""
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        stages = list(zip(self._stages, self.resolutions, widths, strict=True))
        width, skip_widths = stem_channels, []
        for level, (stage, resolution, out) in enumerate(stages):
            if level == 0:
                self.enc[f"{stage}_conv"] = nn.Conv2d(in_channels, width, 3, padding=1)
            else:
                self.enc[f"{stage}_down"] = block(width, width, resample="down")
                self._build_aux(stage, width)
            skip_widths.append(width)
            for i in range(self.num_blocks):
                attends = resolution in self.attn_resolutions
                self.enc[f"{stage}_block{i}"] = block(width, out, heads=heads(out) * attends)
                width = out
                skip_widths.append(width)
        for level, (stage, resolution, out) in reversed(list(enumerate(stages))):
            if level == len(stages) - 1:
                self.dec[f"{stage}_in0"] = block(width, width, heads=heads(width))
                self.dec[f"{stage}_in1"] = block(width, width)
            else:
                self.dec[f"{stage}_up"] = block(width, width, resample="up")
            for i in range(self.num_blocks + 1):
                attends = resolution in self.attn_resolutions and (not attend_last_only or i == self.num_blocks)
                self.dec[f"{stage}_block{i}"] = block(width + skip_widths.pop(), out, heads=heads(out) * attends)
                width = out
            self._build_read_out(stage, width)

    def _drop_labels(self, class_labels: Tensor) -> Tensor:
        """In training, class labels with some rows set to zero."""
        if not (self.training and self.label_dropout):
            return class_labels
        keep = torch.rand_like(class_labels[:, :1]) >= self.label_dropout
        return class_labels * keep.to(class_labels.dtype)

    def _build_aux(self, stage: str, width: int) -> None:
        """Add what an encoder stage has beside its blocks: nothing."""

    def _add_aux(self, stage: str, h: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Features with the second branch's contribution, and that branch, after going down: unchanged."""
        return h, aux

    def _build_read_out(self, stage: str, width: int) -> None:
        """Add the layers behind one decoder stage that make the output."""
        raise NotImplementedError

    def _read_out(self, stage: str, h: Tensor, output: Tensor | None) -> Tensor | None:
        """The output as of this decoder stage, None before the first contribution."""
        raise NotImplementedError
