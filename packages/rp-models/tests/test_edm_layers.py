"""The parts of EDM's U-Nets against slow, obvious twins: values, gradients and second derivatives."""

import math

import pytest
import torch
from rp_models import noise
from rp_models.networks.edm_layers import (
    FourierEmbedding,
    PositionalEmbedding,
    ResampleConv2d,
    UNetBlock,
    group_norm,
)


def draw(*shape, purpose="x"):
    return noise.normal(shape, seed=0, purpose=purpose, index=torch.zeros(1, dtype=torch.int64), dtype=torch.float64)[0]


def fill(module):
    """Random parameters in float64, in place of those that start at zero."""
    module = module.double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(draw(*parameter.shape, purpose=name) / math.sqrt(max(1, parameter[0].numel())))
    return module


def filtered(x, taps, direction, padding):
    """Down: a weighted sum over each stride's window. Up: every pixel adds a multiple of the filter."""
    b, c, height, width = x.shape
    size = len(taps)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    if direction == "down":
        x = torch.nn.functional.pad(x, [padding] * 4)
        rows, columns = ((n + 2 * padding - size) // 2 + 1 for n in (height, width))
        pixels = [
            (x[:, :, 2 * i : 2 * i + size, 2 * j : 2 * j + size] * kernel).sum((2, 3))
            for i in range(rows)
            for j in range(columns)
        ]
        return torch.stack(pixels, dim=2).reshape(b, c, rows, columns)
    total = torch.zeros(b, c, 2 * height + size - 2, 2 * width + size - 2, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            total[:, :, 2 * i : 2 * i + size, 2 * j : 2 * j + size] += 4 * kernel * x[:, :, i : i + 1, j : j + 1]
    return total[:, :, padding : total.shape[2] - padding, padding : total.shape[3] - padding]


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 3.0, 3.0, 1.0)])
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_resampling_equals_the_obvious_filter_then_a_convolution(taps, direction, kernel):
    module = fill(ResampleConv2d(3, 3, kernel, direction=direction, resample_filter=taps))
    x, twin_x = (draw(2, 3, 6, 4).requires_grad_() for _ in range(2))
    y = module(x)
    twin = filtered(twin_x, torch.tensor(taps, dtype=torch.float64), direction, padding=(len(taps) - 1) // 2)
    if kernel:
        twin = torch.nn.functional.conv2d(twin, module.weight, module.bias, padding=kernel // 2)
    torch.testing.assert_close(y, twin)
    weight = draw(*y.shape, purpose="weight")
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), x), torch.autograd.grad((twin * weight).sum(), twin_x)
    )
    assert bool(module.state_dict().keys() == {"resample_filter"}) == (kernel == 0)


def test_a_constant_image_keeps_its_value_when_resampled():
    x = torch.ones(1, 2, 8, 8)
    for taps in ((1, 1), (1, 3, 3, 1)):
        for direction in ("up", "down"):
            y = ResampleConv2d(2, 2, 0, direction=direction, resample_filter=taps)(x)
            torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.ones_like(y[:, :, 1:-1, 1:-1]))


def test_attention_equals_a_loop_over_images_heads_and_pixels():
    block = fill(UNetBlock(8, 8, 4, heads=2))
    x, twin_x = (draw(2, 8, 3, 2).requires_grad_() for _ in range(2))
    y = block._attend(x)
    qkv = block.qkv(block.norm2(twin_x)).flatten(2)
    mixed = torch.zeros(2, 8, 6, dtype=torch.float64)
    for image in range(2):
        for head in range(2):
            channels = torch.arange(4) * 3 + head * 12  # query, key and value alternate within a head
            q, k, v = (qkv[image, channels + part] for part in range(3))
            for pixel in range(6):
                weights = torch.stack([q[:, pixel] @ k[:, other] for other in range(6)]) / math.sqrt(4)
                mixed[image, head * 4 : head * 4 + 4, pixel] = v @ weights.softmax(0)
    twin = block.proj(mixed.reshape(2, 8, 3, 2))
    torch.testing.assert_close(y, twin)
    weight = draw(*y.shape, purpose="weight")
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), x), torch.autograd.grad((twin * weight).sum(), twin_x)
    )


@pytest.mark.parametrize("adaptive_scale", [True, False])
def test_a_block_has_right_first_and_second_derivatives(adaptive_scale):
    block = fill(UNetBlock(4, 4, 2, heads=1, adaptive_scale=adaptive_scale, skip_scale=math.sqrt(0.5)))
    inputs = (draw(1, 4, 2, 2).requires_grad_(), draw(1, 2, purpose="emb").requires_grad_())
    assert torch.autograd.gradcheck(block, inputs)
    assert torch.autograd.gradgradcheck(block, inputs)


def test_a_block_leaves_its_input_as_it_is():
    block = fill(UNetBlock(4, 4, 2, heads=1, skip_scale=0.5))
    x, emb = draw(1, 4, 2, 2), draw(1, 2)
    copies = x.clone(), emb.clone()
    with torch.no_grad():
        block(x, emb)
    assert torch.equal(x, copies[0])
    assert torch.equal(emb, copies[1])


def test_embeddings_are_cosines_then_sines_of_their_frequencies():
    x = torch.tensor([0.0, 1.5, 999.0])
    frequencies = [1 / 10000 ** (i / 3) for i in range(4)]
    twin = torch.tensor([[f(v * w) for f in (math.cos, math.sin) for w in frequencies] for v in x.tolist()])
    # float32 angles up to 999 are known to 3e-5
    torch.testing.assert_close(PositionalEmbedding(8, endpoint=True)(x), twin, rtol=0, atol=1e-4)
    fourier = FourierEmbedding(8)
    angle = 2 * math.pi * fourier.freqs.double() * 1.5
    twin = torch.cat([angle.cos(), angle.sin()]).float()
    torch.testing.assert_close(fourier(x)[1], twin, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (8, 2), (20, 5), (22, 2), (128, 32), (144, 24), (384, 32)]
)
def test_group_norm_has_at_most_32_groups_of_at_least_four_channels(channels, groups):
    assert group_norm(channels, 1e-5).num_groups == groups


def test_impossible_layers_are_refused():
    with pytest.raises(ValueError, match="even number of channels"):
        PositionalEmbedding(5, endpoint=True)
    with pytest.raises(ValueError, match="even number of channels"):
        FourierEmbedding(3)
    with pytest.raises(ValueError, match="conv_first"):
        ResampleConv2d(3, 3, 3, direction="up", conv_first=True)
