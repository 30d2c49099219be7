"""The stochastic Heun sampler against recorded trajectories of the public reference."""

import torch
from rp_models.edm import EDMPrecond, sample_heun

from .golden.files import Golden


def filled(golden):
    return golden.fill(EDMPrecond(**golden.config["build"]["kwargs"])).eval()


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
