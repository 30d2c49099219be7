"""On a real GPU: the numbers of the CPU, and what a pretended GPU cannot show; skipped where there is none."""

import pytest
import torch
from rp_models import build, noise, noise_kernels
from rp_models.data import load_images
from rp_models.settings import ComputeSettings

from tests.gpu_cases import CASES
from tests.gpu_cases.case import batch, classifier, digits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("shape", [(), (7,), (3, 32, 32)])
def test_draws_are_those_of_the_cpu(shape):
    index = torch.tensor([0, 5, 2**33 + 1, 17])
    given = {"seed": 3, "purpose": "p"}
    for draw in (noise.uniform, lambda *a, **k: noise.integers(1000, *a, **k)):
        assert torch.equal(draw(shape, index=index.cuda(), **given).cpu(), draw(shape, index=index, **given))
    found = noise.normal(shape, index=index.cuda(), **given).cpu()
    torch.testing.assert_close(found, noise.normal(shape, index=index, **given), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_draws_are_compiled():
    for draw in (noise_kernels.uniform, noise_kernels.integers, noise_kernels.normal):
        assert noise_kernels.compiled_draw(draw, torch.device("cuda", 0)) is not None


def test_networks_give_the_numbers_and_gradients_of_the_cpu():
    x = batch("cpu")[0]
    for make in (classifier, lambda device: build("vit-digits").to(device).eval()):
        torch.manual_seed(1)
        model = make("cpu")
        found = []
        for device in ("cpu", "cuda"):
            leaf = x.to(device).requires_grad_()
            logits = model.to(device)(leaf)
            found.append((logits.detach().cpu(), torch.autograd.grad(logits.square().sum(), leaf)[0].cpu()))
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)  # TF32 is off, sums are grouped otherwise


@pytest.mark.parametrize("name", ["attack/pgd-10", "attack/apgd-10 ce", "purify/mae-pure 3 steps, forward"])
def test_attacks_and_purifications_agree_with_the_cpu(name):
    """A sign of a gradient near 0 may differ, and moves that pixel; few do."""
    expected, found = (CASES[name](device)(3) for device in ("cpu", "cuda"))
    expected, found = (getattr(value, "images", value) for value in (expected, found))
    assert ((found.cpu() - expected).abs() > 1e-4).float().mean() < 0.01


def test_gradients_that_replay_a_purification_repeat_themselves():
    step = CASES["purify/mae-pure 3 steps, gradients"]("cuda")
    first, second = step(2), step(2)
    assert first.keys() == second.keys()
    for rule, grad in first.items():
        torch.testing.assert_close(second[rule], grad, rtol=1e-5, atol=1e-7)


def test_bfloat16_turns_few_signs_of_an_attack():
    x, y = batch("cuda")
    model = classifier("cuda")
    signs = []
    for enabled in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=enabled):
            loss = torch.nn.functional.cross_entropy(model(leaf).float(), y)
        signs.append(torch.autograd.grad(loss, leaf)[0].sign())
    assert (signs[0] != signs[1]).float().mean() < 0.1


def test_a_resumed_training_goes_on_as_an_unbroken_one(tmp_path):
    from rp_models.settings import StandardSettings
    from rp_models.training import StandardTrainer

    settings = StandardSettings(network="dm-wide-resnet", sizes={"depth": 10, "width": 1}, steps=6, batch_size=16)
    images, compute = digits("cuda"), ComputeSettings(precision="bf16")
    whole, broken, later = (StandardTrainer(settings, images, seed=0, compute=compute) for _ in range(3))
    for step in range(6):
        whole.step(step)
    for step in range(3):
        broken.step(step)
    broken.state.save(tmp_path / "state.safetensors", 3, {})
    assert later.state.restore(tmp_path / "state.safetensors", {}) == 3
    for step in range(3, 6):
        later.step(step)
    for key, value in whole.model.state_dict().items():  # a GPU does not keep the order of its sums
        torch.testing.assert_close(later.model.state_dict()[key], value, rtol=1e-2, atol=1e-3)


def test_batches_from_files_arrive_whole_through_the_side_stream(tmp_path):
    from rp_models.data import read_synthetic, write_synthetic
    from rp_models.training import Minibatches

    real = load_images("digits", "train")
    write_synthetic(real.images[:64], real.labels[:64], tmp_path / "set.npz")
    mapped = read_synthetic(tmp_path / "set.npz", real.info)
    expected = Minibatches(mapped.load(), 16, seed=0, purpose="p")
    found = Minibatches(mapped.to("cuda"), 16, seed=0, purpose="p")
    busy = torch.rand(2048, 2048, device="cuda")
    for step in range(8):
        busy = busy @ busy / busy.norm()
        for one, other in zip(found.part(step), expected.part(step), strict=True):
            assert torch.equal(one.cpu(), other)
