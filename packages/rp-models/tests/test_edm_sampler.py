"""The stochastic Heun sampler: recorded trajectories of the public reference, exact solutions, what it asks for."""

import math

import pytest
import torch
from rp_models import noise
from rp_models.diffusion.heun import noise_levels, sample_heun, to_uint8
from rp_models.diffusion.precondition import EDMPrecond
from rp_testing import Golden


def filled(golden):
    return golden.fill(EDMPrecond(**golden.config["build"]["kwargs"])).eval()


def latents(count=2):
    return noise.normal((1, 4, 4), seed=0, purpose="latents", index=torch.arange(count))


def gaussian(mean, std):
    """The exact denoiser of Gaussian data, for which the flow has a closed form."""

    def denoiser(x, sigma, labels):
        return (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)

    return denoiser


def test_deterministic_trajectory_equals_the_reference():
    golden = Golden("edm_sampler_heun_tiny")
    model, calls = filled(golden), []

    def denoiser(x, sigma, labels):
        calls.append((x, sigma, model(x, sigma, labels)))
        return calls[-1][-1]

    with torch.no_grad():
        x = sample_heun(
            denoiser, golden["in_latents"], class_labels=golden["in_class_labels"], **golden.config["sampler"]
        )
    states, sigmas, denoised = (torch.stack(column) for column in zip(*calls, strict=True))
    assert x.dtype == torch.float64
    golden.check(out_x=x, out_eval_x=states, out_eval_sigma=sigmas, out_eval_D=denoised)


def test_churned_trajectory_equals_the_reference():
    golden = Golden("edm_sampler_churn_tiny")
    step_noise = golden["in_step_noise"]
    with torch.no_grad():
        x = sample_heun(
            filled(golden),
            golden["in_latents"],
            class_labels=golden["in_class_labels"],
            noise=lambda step: step_noise[step],
            **golden.config["sampler"],
        )
    golden.check(out_x=x)


@pytest.mark.parametrize("steps", [18, 40, 256])
def test_noise_levels_equal_the_reference(steps):
    expected = Golden("edm_schedule").arrays[f"out_t_steps_{steps}"]
    assert noise_levels(steps) == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_error_against_the_exact_flow_falls_with_the_square_of_the_steps():
    x, mean, std = latents().double(), 0.3, 0.5
    # x(sigma) - mean is proportional to sqrt(sigma^2 + std^2) along the flow
    exact = mean + (80 * x - mean) * std / math.sqrt(80**2 + std**2)
    errors = [(sample_heun(gaussian(mean, std), x, num_steps=n) - exact).abs().max().item() for n in (20, 40, 80)]
    assert errors[0] < 0.06
    assert 3 < errors[0] / errors[1] < 5.5
    assert 3 < errors[1] / errors[2] < 5.5


def test_churn_keeps_the_distribution_of_the_data():
    count = 4000
    start = noise.normal((1,), seed=0, purpose="start", index=torch.arange(count))

    def step_noise(step):
        return noise.normal((1,), seed=step, purpose="step", index=torch.arange(count))

    x = sample_heun(gaussian(0.3, 0.5), start, num_steps=30, S_churn=10, noise=step_noise)
    plain = sample_heun(gaussian(0.3, 0.5), start, num_steps=30)
    assert (x.mean().item(), x.std().item()) == pytest.approx((0.3, 0.5), abs=0.03)
    assert (x - plain).abs().mean() > 0.1


def test_noise_is_asked_for_only_between_the_limits_of_churn():
    asked, levels = [], noise_levels(10)

    def step_noise(step):
        asked.append(step)
        return torch.zeros(2, 1, 4, 4)

    sample_heun(gaussian(0, 1), latents(), num_steps=10, S_churn=4, S_min=0.05, S_max=50, noise=step_noise)
    assert asked == [step for step, level in enumerate(levels[:-1]) if 0.05 <= level <= 50]
    assert 0 < len(asked) < 10


def test_levels_stay_within_those_of_the_denoiser():
    class Limited(torch.nn.Module):
        sigma_min, sigma_max = 0.02, 50.0
        seen: tuple[float, ...] = ()

        def forward(self, x, sigma, labels):
            self.seen = (*self.seen, float(sigma))
            return x

    denoiser = Limited()
    sample_heun(denoiser, latents(), num_steps=4)
    assert max(denoiser.seen) == pytest.approx(50)
    assert min(denoiser.seen) == pytest.approx(0.02)
    assert len(denoiser.seen) == 2 * 4 - 1


def test_the_callback_sees_each_step_and_inputs_stay_as_they_are():
    x, seen = latents(), []
    copy = x.clone()
    result = sample_heun(gaussian(0, 1), x, num_steps=5, callback=lambda step, state: seen.append((step, state)))
    assert [step for step, _ in seen] == list(range(5))
    assert torch.equal(seen[-1][1], result)
    assert torch.equal(x, copy)


def test_gradients_flow_through_the_sampler():
    x = latents().double().requires_grad_()
    sample_heun(gaussian(0.3, 0.5), x, num_steps=40).sum().backward()
    # the exact flow is linear in the latents
    torch.testing.assert_close(x.grad, torch.full_like(x, 80 * 0.5 / math.sqrt(80**2 + 0.25)), rtol=0.02, atol=0)


def test_bytes_are_rounded_as_the_reference_does():
    x = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.5, 0.9999, 1.0, 3.0], dtype=torch.float64)
    assert to_uint8(x).tolist() == [0, 0, 0, 128, 191, 255, 255, 255]
    assert to_uint8(x).dtype == torch.uint8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
        ({"sigma_min": 0.0}, "0 < sigma_min < sigma_max"),
        ({"sigma_min": 90.0}, "0 < sigma_min < sigma_max"),
        ({"sigma_max": math.inf}, "0 < sigma_min < sigma_max"),
        ({"S_churn": 1.0}, "pass noise"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_heun(gaussian(0, 1), latents(), **arguments)
