"""What a purifier does to the process, and what it says when it cannot; see `test_contract.py` for all others."""

import threading
from collections.abc import Callable

import pytest
import torch
from rp_purify import (
    Defended,
    DiffPure,
    GaussianNoise,
    MAEPure,
    MAEReconstruction,
    SignDescent,
)
from rp_purify.gradient import CURVED
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from .every_purifier import MAKE
from .models import TinyClassifier, tiny_images, tiny_mae

INDEX = torch.tensor([7, 2**33, 0])


@pytest.mark.parametrize(
    "make", [lambda: MAEPure(tiny_mae(), steps=2, masks="fixed"), lambda: GaussianNoise(0.1, fresh=False)]
)
def test_noise_that_is_not_fresh_belongs_to_the_image_and_not_to_its_place_in_the_batch(make: object) -> None:
    x = tiny_images(4, low=0.2, high=0.8)
    purifier, order = make(), torch.tensor([2, 0, 3, 1])  # type: ignore[operator]
    together = purifier(x)
    assert torch.equal(purifier(x[order]), together[order])
    assert torch.equal(make()(x[1:2]), together[1:2])  # type: ignore[operator]
    same = x[:1].expand(3, -1, -1, -1)
    assert torch.equal(purifier(same)[0], purifier(same)[2])
    nearly = (same.clone(), same + torch.tensor([0.0, 1e-7, 2e-7]).view(3, 1, 1, 1))
    assert not torch.equal(*(GaussianNoise(0.1, fresh=False)(images) - images for images in nearly))
    given = purifier(x, index=torch.arange(4))
    assert torch.equal(given, purifier(x, seed=0, index=torch.arange(4)))


def test_a_defence_takes_the_seed_and_the_indices_of_a_call() -> None:
    x, classifier = tiny_images(), TinyClassifier()
    defended = Defended(MAEPure(tiny_mae(), steps=2), classifier)
    purified = defended.purifier(x, seed=3, index=INDEX)
    assert torch.equal(defended(x, seed=3, index=INDEX), classifier(purified))
    assert torch.equal(defended.forward_features(x, seed=3, index=INDEX), classifier.forward_features(purified))
    assert torch.equal(defended.with_noise(seed=3, index=INDEX)(x), classifier(purified))


def test_another_value_of_any_setting_shows() -> None:
    base, others = repr(MAEPure(tiny_mae())), {"steps": 3, "step_size": 0.1, "eta": 0.5, "halve": False}
    others |= {"mask_rate": 0.5, "masks": "fixed", "masks_per_step": 2, "complementary": True, "grad": "normalised"}
    assert all(repr(MAEPure(tiny_mae(), **{key: value})) != base for key, value in others.items())  # type: ignore[arg-type]
    base = repr(DiffPure(nn.Identity()))
    for changed in ({"times": 50}, {"steps": 5}, {"solver": "ode"}):
        assert repr(DiffPure(nn.Identity(), **changed)) != base  # type: ignore[arg-type]


class Watching(MAEPure):
    """Notes whether fused attention is switched on for the process while a loss is computed."""

    def loss(self, x: Tensor, **noise: object) -> Tensor:
        self.seen = (*getattr(self, "seen", ()), torch.backends.cuda.flash_sdp_enabled())
        return super().loss(x, **noise)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", CURVED)
def test_a_curved_backward_pass_leaves_the_process_its_fused_attention(rule: str) -> None:
    purifier, x = Watching(tiny_mae(), steps=2, grad=rule), tiny_images().requires_grad_()
    purifier(x, seed=0).sum().backward()
    assert purifier.seen == (True,) * 4


class Foreign(SignDescent):
    """A loss through torch's own attention module, in which a mode of ours does not see the fused kernel."""

    def loss(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        tokens = x.flatten(2).mT.expand(-1, -1, 8)
        return self.model(tokens, tokens, tokens, need_weights=False)[0].square().mean(dim=(1, 2))


def test_a_curved_rule_differentiates_torchs_own_attention_module_twice() -> None:
    with torch.random.fork_rng():
        model = nn.MultiheadAttention(8, 2, batch_first=True)
    purifier = Foreign(model, step_size=0.1, steps=2, eta=None, halve=False, fresh=True, grad="ste-tanh")
    x = tiny_images(low=0.3, high=0.7).requires_grad_()
    (grad,) = torch.autograd.grad(purifier(x, seed=0).sum(), x)
    assert (grad - 1).abs().max() > 1e-3  # the curvature shows


def test_threads_that_differentiate_through_one_model_do_not_disturb_each_other() -> None:
    mae, x = tiny_mae(), tiny_images()
    results: list[Tensor | BaseException] = []

    def attack(rule: str) -> None:
        try:
            for _ in range(5):
                leaf = x.clone().requires_grad_()
                purified = MAEPure(mae, steps=2, grad=rule)(leaf, seed=0)
                purified.square().sum().backward()
                assert leaf.grad is not None
                results.append(leaf.grad)
        except BaseException as error:  # a thread's death would otherwise go unseen
            results.append(error)

    attack("ste-tanh")
    threads = [threading.Thread(target=attack, args=("ste-tanh",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result for result in results if isinstance(result, BaseException)] == []
    assert len(results) == 20
    assert all(torch.equal(result, results[0]) for result in results)  # type: ignore[arg-type]
    assert all(parameter.grad is None for parameter in mae.parameters())
    trainable = [parameter.requires_grad for parameter in tiny_mae().parameters()]
    assert [parameter.requires_grad for parameter in mae.parameters()] == trainable
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_model_stays_frozen_until_the_last_thread_has_left() -> None:
    from rp_purify.purifier import frozen

    model, inside, leave = nn.Linear(2, 2), threading.Event(), threading.Event()

    def hold() -> None:
        with frozen(model):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    with frozen(model):
        thread.start()
        assert inside.wait(10)
    assert not model.weight.requires_grad
    leave.set()
    thread.join()
    assert model.weight.requires_grad


def test_weights_made_in_inference_mode_are_refused_where_gradients_are_needed() -> None:
    with torch.inference_mode():
        mae = tiny_mae()
        x = tiny_images()
        assert MAEReconstruction(mae)(x).shape == x.shape  # which needs none
    with torch.no_grad():
        assert MAEReconstruction(mae)(x).shape == x.shape
    for purify in (MAEPure(mae, steps=1), MAEReconstruction(mae)):
        with pytest.raises(ValueError, match=r"weights of M\w+ were made under torch\.inference_mode\(\)"):
            purify(tiny_images().requires_grad_())


class Broken(MAEPure):
    """A loss whose gradient is not a number at the first pixel of the first image."""

    def loss(self, x: Tensor, **noise: object) -> Tensor:
        return super().loss(x, **noise) + torch.where(x == x[0, 0, 0, 0], x * torch.nan, 0).sum(dim=(1, 2, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("grad", MAEPure.gradients)
def test_a_gradient_that_is_not_finite_is_named_and_no_image_with_nan_comes_out(grad: str) -> None:
    with pytest.raises(FloatingPointError, match="Broken made pixels that are not finite"):
        Broken(tiny_mae(), steps=1, grad=grad)(tiny_images().requires_grad_())


@pytest.mark.parametrize("rule", CURVED)
def test_a_curved_rule_does_not_depend_on_the_scale_of_the_loss(rule: str) -> None:
    upstream = tiny_images(2).flip(0) - 0.5

    def slope(scale: float) -> Tensor:
        g = ((tiny_images(2) - 0.4) * scale).requires_grad_()
        (grad,) = torch.autograd.grad(CURVED[rule](g), g, upstream)
        return grad * scale

    # float32 rounding of the scaled gradient
    torch.testing.assert_close(slope(1e-33), slope(1.0), atol=0, rtol=1e-4)
    nothing = torch.zeros(1, 1, 2, 2, requires_grad=True)
    result = CURVED[rule](nothing)
    assert torch.equal(result, torch.zeros_like(nothing))
    assert torch.isfinite(torch.autograd.grad(result.sum(), nothing)[0]).all()


@pytest.mark.parametrize("name", ["mae-pure", "maskdit-pure", "diffpure", "likelihood"])
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it where it takes over
def test_the_compiler_takes_the_classifier_and_leaves_the_purifier(name: str) -> None:
    x, defended = tiny_images(low=0.2, high=0.8).requires_grad_(), Defended(MAKE[name](), TinyClassifier()).eval()
    counter = CompileCounter()
    compiled = torch.compile(defended, backend=counter)
    logits = compiled(x, seed=2, index=INDEX)
    assert counter.frame_count == 1
    expected = defended(x, seed=2, index=INDEX)
    assert torch.equal(logits, expected)
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in (logits, expected)]
    assert torch.equal(*grads)
    assert not torch.equal(compiled(x), compiled(x))  # other noise in each call
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_defence_has_the_gradients_of_the_plain_one() -> None:
    x, defended = tiny_images(low=0.2, high=0.8).requires_grad_(), Defended(MAKE["mae-pure"](), TinyClassifier()).eval()
    results = [f(x, seed=2, index=INDEX) for f in (torch.compile(defended), defended)]
    torch.testing.assert_close(*results)  # another order of summation in the compiled classifier
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in results))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "convert",
    [
        torch.jit.script,
        lambda model: torch.jit.trace(model, tiny_images()),
        lambda model: torch.export.export(model, (tiny_images(),)),
    ],
    ids=["script", "trace", "export"],
)
@pytest.mark.parametrize("name", ["mae-pure", "noise"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_what_cannot_be_converted_says_why_in_one_sentence(name: str, convert: Callable) -> None:
    purifier = MAKE[name]()
    sentence = f"{type(purifier).__name__} cannot be scripted, traced or exported: it draws its noise in Python"
    with pytest.raises(RuntimeError, match=sentence):
        convert(nn.Sequential(Defended(purifier, TinyClassifier()).eval()))


def test_numbers_of_images_may_be_a_list() -> None:
    purifier, x = GaussianNoise(std=0.1), torch.full((2, 1, 4, 4), 0.5)
    assert torch.equal(purifier(x, seed=1, index=[0, 1]), purifier(x, seed=1, index=torch.tensor([0, 1])))
