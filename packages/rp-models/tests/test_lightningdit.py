"""LightningDiT: the reference's numbers for every flag, guidance, middle features, and honest errors."""

import pytest
import torch
from rp_models import build
from rp_models.diffusion.transport import Guidance
from rp_models.networks.adaln import drop_labels, modulate
from rp_models.networks.lightningdit import LightningDiT
from rp_models.networks.rotary import Rotary, rotate
from rp_testing import Golden, fill_state
from torch import Tensor

NAMES = ["lightningdit_tiny", "lightningdit_tiny_kept", "lightningdit_qknorm_tiny", "lightningdit_plain_patch2_tiny"]


def reference_model(golden: Golden) -> LightningDiT:
    flags = golden.config["build"]["kwargs"]
    return LightningDiT(
        image_size=flags["input_size"],
        patch_size=flags["patch_size"],
        in_channels=flags["in_channels"],
        width=flags["hidden_size"],
        depth=flags["depth"],
        heads=flags["num_heads"],
        num_classes=flags["num_classes"],
        qk_norm=flags["use_qknorm"],
        swiglu=flags["use_swiglu"],
        rope=flags["use_rope"],
        rms_norm=flags["use_rmsnorm"],
        shift=not flags["wo_shift"],
    ).eval()


def filled(golden: Golden) -> LightningDiT:
    model = reference_model(golden)
    tables = {key: model.state_dict()[key].clone() for key in golden.config.get("kept_keys", ())}
    golden.fill(model)
    model.load_state_dict(tables, strict=False)
    for key, table in tables.items():
        golden.check(tolerance=1e-6, **{f"const_{key}": table})
    return model


def tiny(**arguments) -> LightningDiT:
    """A small model with every weight away from zero, so that no branch is closed."""
    sizes = {"image_size": 4, "in_channels": 4, "width": 24, "depth": 3, "heads": 2, "num_classes": 3}
    model = LightningDiT(**{**sizes, **arguments})
    weights = {key: tuple(p.shape) for key, p in model.named_parameters() if p.requires_grad}
    state = {key: torch.from_numpy(value) for key, value in fill_state(weights).items()}
    model.load_state_dict(state, strict=False)
    return model.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_velocity_features_and_rotation_equal_the_reference(name):
    golden = Golden(name)
    model = filled(golden)
    x, t, y = golden["in_x"], golden["in_t"], golden["in_y"].long()
    blocks, massive = golden.config["middle_block"] + 1, golden.config["zero_channels"]
    with torch.no_grad():
        golden.check(
            out_v=model(x, t, y),
            out_conditioning=model.condition(x, t, y),
            out_hidden=model.features(x, t, y, blocks=blocks, modulated_by=None),
            out_next_adaln=model.features(x, t, y, blocks=blocks),
            out_next_adaln_zero_before_norm=model.features(x, t, y, blocks=blocks, zero_channels=massive),
            out_next_adaln_zero_after_norm=model.features(
                x, t, y, blocks=blocks, zero_channels=massive, zero_at="after_norm"
            ),
        )
        if model.feat_rope is not None:
            golden.check(out_rope=rotate(golden["in_rope_in"], *model.feat_rope.table()))


@pytest.mark.parametrize("name", NAMES)
def test_guidance_equals_the_reference(name):
    golden = Golden(name)
    model = filled(golden)
    x, y = golden["in_x"], golden["in_y"].long()
    guide = Guidance(model, y, scale=golden.config["cfg_scale"], start=golden.config["cfg_interval_start"])
    for key, t in golden.config["cfg_times"].items():
        with torch.no_grad():
            got, null = guide(x, t), model(x, t)
        # the reference returns a second half as well: the same guided channels beside unguided unconditional ones
        both = torch.cat([got, torch.cat([got[:, :3], null[:, 3:]], dim=1)])
        golden.check(**{f"out_{key}": both})


def test_guidance_of_all_channels_interpolates_between_the_two_velocities():
    model, x, y = tiny(), draw(2, 4, 4, 4), torch.tensor([0, 2])
    with torch.no_grad():
        c, u = model(x, 0.5, y), model(x, 0.5)
        torch.testing.assert_close(
            Guidance(model, y, scale=2.0, channels=None)(x, 0.5), u + 2 * (c - u), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(Guidance(model, y, scale=2.0, start=0.6)(x, 0.5), c, rtol=0, atol=0)
    with pytest.raises(ValueError, match="null class"):
        Guidance(tiny(class_dropout_prob=0.0), y, scale=2.0)


def test_a_rotation_keeps_lengths_and_depends_on_relative_positions_alone():
    cos, sin = Rotary(8, 3).table()
    q, k = draw(1, 1, 1, 8).expand(1, 1, 9, 8), draw(1, 1, 1, 8, seed=1).expand(1, 1, 9, 8)
    turned_q, turned_k = rotate(q, cos, sin), rotate(k, cos, sin)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    scores = (turned_q @ turned_k.mT)[0, 0].reshape(3, 3, 3, 3)  # query row, query column, key row, key column
    torch.testing.assert_close(scores[0, 0, 1, 1], scores[1, 1, 2, 2])
    torch.testing.assert_close(scores[0, 1, 2, 0], scores[0, 2, 2, 1])
    assert (scores[0, 0, 0, 1] - scores[0, 0, 1, 0]).abs() > 1e-3  # rows and columns turn different channels


def test_a_massive_channel_hides_the_others_unless_it_is_zeroed_before_the_norm():
    model, x = tiny(), draw(2, 4, 4, 4)
    features = {}
    for size in (0.0, 1e4):
        with torch.no_grad():
            model.x_embedder.proj.bias[5] = size
            model.blocks[0].norm1.weight[5] = model.blocks[1].norm1.weight[5] = 0.0
            for block in model.blocks[:2]:
                block.adaLN_modulation[1].weight.zero_()
                block.adaLN_modulation[1].bias.zero_()  # closed gates: the residual stream carries the channel alone
            for zero_at in ("before_norm", "after_norm"):
                features[size, zero_at] = model.features(x, 0.8, blocks=2, zero_channels=[5], zero_at=zero_at)
    torch.testing.assert_close(features[1e4, "before_norm"], features[0.0, "before_norm"])
    assert features[1e4, "after_norm"].std() < 0.99 * features[0.0, "after_norm"].std()


def test_features_count_blocks_from_one_and_can_take_the_same_blocks_modulation():
    model, x, t, y = tiny(), draw(2, 4, 4, 4), torch.tensor([0.2, 0.8]), torch.tensor([0, 3])
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, out: outputs.append(out))
    with torch.no_grad():
        model(x, t, y)
        after = list(outputs)
        c = model.condition(x, t, y)
        for count in (1, 2, 3):
            torch.testing.assert_close(model.features(x, t, y, blocks=count, modulated_by=None), after[count - 1])
        shift, scale = model.blocks[1].modulations(c)[:2]
        expected = modulate(model.blocks[1].norm1(after[1]), shift, scale)
        torch.testing.assert_close(model.features(x, t, y, blocks=2, modulated_by="same"), expected)


def test_only_the_needed_blocks_are_computed_and_gradients_reach_the_latents():
    model = tiny()
    ran = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    x = draw(1, 4, 4, 4).requires_grad_()
    model.features(x, 0.8, blocks=1).sum().backward()
    assert ran == [0]
    assert x.grad.abs().max() > 0


def test_the_full_size_configuration_equals_the_reference():
    golden = Golden("full_lightningdit-xl1")
    with torch.device("meta"):
        model = build("lightningdit-xl-1")
    golden.check_keys(model)
    assert sum(p.numel() for p in model.parameters()) == golden.config["parameters"]
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == golden.config["frozen_parameters"]


def test_recomputed_blocks_give_the_same_gradients():
    x, y = draw(2, 4, 4, 4), torch.tensor([0, 2])
    gradients = []
    for recompute in (False, True):
        model = tiny(recompute=recompute)
        model(x, 0.3, y).square().sum().backward()
        gradients.append(model.x_embedder.proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_learned_sigma_adds_output_channels_that_are_not_returned():
    model = tiny(learn_sigma=True)
    assert model.final_layer.linear.out_features == 8
    assert model(draw(1, 4, 4, 4), 0.5).shape == (1, 4, 4, 4)


def test_a_compiled_model_is_one_graph_and_gives_the_same_numbers():
    model, x, y = tiny(qk_norm=True, depth=2), draw(2, 4, 4, 4), torch.tensor([0, 3])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for t in (torch.tensor([0.2, 0.8]), 0.3):
            torch.testing.assert_close(compiled(x, t, y), model(x, t, y), rtol=0, atol=1e-5)


@pytest.mark.parametrize("flags", [{}, {"qk_norm": True}, {"qk_norm": True, "rms_norm": False, "swiglu": False}])
def test_bfloat16_keeps_the_numbers_under_autocast_and_throughout(flags):
    model, x, t, y = tiny(**flags), draw(2, 4, 4, 4), torch.tensor([0.2, 0.8]), torch.tensor([0, 3])
    with torch.no_grad():
        expected = model(x, t, y)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x, t, y)
        half = tiny(**flags).bfloat16()(x.bfloat16(), t, y)
    for other in (low, half):  # 8-bit mantissa
        torch.testing.assert_close(other.float(), expected, rtol=0, atol=0.1 * expected.abs().max().item())


def test_labels_are_dropped_where_the_draw_is_below_the_rate():
    y = torch.tensor([0, 1, 2, 0])
    assert drop_labels(y, torch.tensor([0.05, 0.1, 0.5, 0.0]), 0.1, 3).tolist() == [3, 1, 2, 3]


def test_bad_input_is_refused():
    model, x, y = tiny(), draw(2, 4, 4, 4), torch.tensor([0, 2])
    for call, message in (
        (lambda: model(draw(2, 3, 4, 4), 0.5, y), r"expected images \(batch, 4, 4, 4\)"),
        (lambda: model(draw(2, 4, 8, 8), 0.5, y), r"got \(2, 4, 8, 8\)"),
        (lambda: model(x, 1.5, y), r"time must be in \[0, 1\], got 1.5"),
        (lambda: model(x, torch.tensor([0.1, -0.1]), y), r"time must be in \[0, 1\]"),
        (lambda: model(x, torch.rand(3), y), "expected one time or 2 times"),
        (lambda: model(x, 0.5, torch.tensor([0, 4])), r"labels must be in 0\.\.3, got 0\.\.4"),
        (lambda: model(x, 0.5, torch.tensor([0.0, 1.0])), "expected integer labels"),
        (lambda: tiny(class_dropout_prob=0.0)(x, 0.5), "no row for 'no class'"),
        (lambda: model.features(x, 0.5, blocks=3), r"blocks to run, 1\.\.2 with modulated_by='next', got 3"),
        (lambda: model.features(x, 0.5, blocks=2, zero_channels=[24]), r"zero_channels must be in 0\.\.23"),
        (lambda: model.features(x, 0.5, blocks=2, modulated_by="last"), "modulated_by must be 'next', 'same' or None"),
        (lambda: model.features(x, 0.5, blocks=2, zero_at="norm"), "zero_at must be"),
        (lambda: tiny(width=12), "head width divisible by 4"),
        (lambda: tiny(heads=5), "divisible by the number of heads"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
