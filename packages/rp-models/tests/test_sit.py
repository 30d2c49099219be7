"""SiT, REPA's projection head and loss: the reference's numbers, and honest errors."""

import pytest
import torch
from rp_models import build
from rp_models.networks.projector import ProjectionHead, alignment_loss
from rp_models.networks.sit import SiT, repa_loss
from rp_testing import Golden
from torch import Tensor


def reference_model() -> SiT:
    return SiT(
        image_size=8,
        width=32,
        depth=4,
        heads=4,
        num_classes=10,
        encoder_depth=2,
        target_widths=[24],
        projector_hidden=64,
    ).eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_projection_head_and_alignment_loss_equal_the_reference():
    golden = Golden("repa_projector_tiny")
    head = golden.fill(ProjectionHead(32, 24, hidden=64))
    projected = head(golden["in_hidden"])
    golden.check(out_projected=projected, out_proj_loss=alignment_loss(projected, golden["in_target"]).mean())


def test_velocity_projections_and_loss_equal_the_reference():
    golden = Golden("repa_sit_tiny")
    model = golden.fill(reference_model())
    x, t, y = golden["in_x"], golden["in_t"], golden["in_y"].long()
    with torch.no_grad():
        output = model.project(x, t, y)
        loss = repa_loss(
            model,
            golden["in_images"],
            y,
            t=golden["in_time"].flatten(),
            noise=golden["in_noise"],
            targets=[golden["in_target"]],
        )
        golden.check(
            out_v=model(x, t, y),
            out_zs0=output.projections[0],
            out_denoising_loss=loss.denoising,
            out_proj_loss=loss.projection.mean(),
        )
        torch.testing.assert_close(output.velocity, model(x, t, y))
        middle = model.features(x, t, y, blocks=2)
        torch.testing.assert_close(model.projectors[0](middle), output.projections[0])


def test_the_full_size_configuration_equals_the_reference():
    golden = Golden("full_repa-sit-xl2")
    with torch.device("meta"):
        model = build("sit-xl-2-repa")
    golden.check_keys(model)
    assert sum(p.numel() for p in model.parameters()) == golden.config["parameters"]


def test_alignment_is_minus_one_for_parallel_features_and_gives_the_target_no_gradient():
    target = draw(2, 5, 3).requires_grad_()
    projected = (3 * target.detach()).requires_grad_()
    loss = alignment_loss(projected, target)
    torch.testing.assert_close(loss, torch.full((2,), -1.0))
    torch.testing.assert_close(alignment_loss(-projected, target), torch.full((2,), 1.0))
    alignment_loss(projected + 1, target).sum().backward()
    assert projected.grad.abs().max() > 0
    assert target.grad is None
    torch.testing.assert_close(alignment_loss(draw(4, 3), draw(4, 3)), torch.full((4,), -1.0))  # pooled features too


def test_several_encoders_are_averaged():
    model = SiT(
        image_size=4,
        width=16,
        depth=2,
        heads=2,
        num_classes=3,
        encoder_depth=1,
        target_widths=[4, 6],
        projector_hidden=8,
    )
    data, eps, t = draw(2, 4, 4, 4), draw(2, 4, 4, 4, seed=1), torch.tensor([0.2, 0.7])
    targets = [draw(2, 4, 4), draw(2, 4, 6)]
    loss = repa_loss(model, data, torch.tensor([0, 3]), t=t, noise=eps, targets=targets)
    s = t.view(-1, 1, 1, 1)
    projections = model.project((1 - s) * data + s * eps, t, torch.tensor([0, 3])).projections
    expected = sum(alignment_loss(z, target) for z, target in zip(projections, targets, strict=True)) / 2
    torch.testing.assert_close(loss.projection, expected)
    torch.testing.assert_close(loss.denoising, (eps - data).square().mean(dim=(1, 2, 3)))  # starts at zero velocity


def test_bfloat16_autocast_and_compilation_keep_the_numbers():
    golden = Golden("repa_sit_tiny")
    model = golden.fill(reference_model())
    x, t, y = golden["in_x"], golden["in_t"], golden["in_y"].long()
    with torch.no_grad():
        expected = model(x, t, y)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, t, y), expected, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x, t, y)
    torch.testing.assert_close(low.float(), expected, rtol=0, atol=0.1 * expected.abs().max().item())  # 8-bit mantissa


def test_bad_input_is_refused():
    model, x = reference_model(), draw(2, 4, 8, 8)
    for call, message in (
        (lambda: model(draw(2, 3, 8, 8), 0.5), r"expected images \(batch, 4, 8, 8\)"),
        (lambda: model(x, -0.5), r"time must be in \[0, 1\]"),
        (lambda: model(x, 0.5, torch.tensor([0, 11])), r"labels must be in 0\.\.10"),
        (lambda: model.features(x, 0.5, blocks=5), r"must be in 1\.\.4"),
        (lambda: repa_loss(model, x, t=torch.rand(2), noise=x, targets=[]), "one target for each of 1 projectors"),
        (lambda: alignment_loss(x, x[:1]), "features of one shape"),
        (lambda: SiT(depth=4, width=16, heads=2, encoder_depth=5), r"must be in 1\.\.4"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
