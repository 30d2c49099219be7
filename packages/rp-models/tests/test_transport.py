"""The flow from noise to data: the reference's loss and trajectory, and what a straight flow must do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.diffusion.transport import flow_loss, interpolate, logit_normal_time, sample_euler, time_grid
from rp_testing import Golden
from torch import Tensor

from .test_lightningdit import draw, filled, tiny


def test_loss_prediction_and_trajectory_equal_the_reference():
    golden = Golden("lightningdit_transport_tiny")
    model = filled(golden)
    data, noise, t, y = golden["in_x1"], golden["in_noise"], golden["in_t"], golden["in_y"].long()
    steps, shift = golden.config["num_steps"], golden.config["timestep_shift"]
    trajectory = [noise]
    with torch.no_grad():
        loss = flow_loss(model, data, y, t=t, noise=noise)
        prediction = model(interpolate(data, noise, t), t, y)
        final = sample_euler(
            lambda x, time: model(x, time, y),
            noise,
            num_steps=steps,
            shift=shift,
            callback=lambda step, x: trajectory.append(x),
        )
    assert torch.equal(final, trajectory[-1])
    golden.check(
        out_loss=loss.squared,
        out_cos_loss=loss.cosine,
        out_pred=prediction,
        out_ode_euler=torch.stack(trajectory),
        out_ode_times=time_grid(steps, shift),
        out_released_times_250=time_grid(250, 0.3),
    )


@settings(deadline=None, max_examples=25)
@given(steps=st.integers(2, 60), shift=st.floats(0.05, 5.0))
def test_times_rise_from_zero_to_one_and_a_small_shift_lingers_at_the_noise(steps, shift):
    times = time_grid(steps, shift)
    assert len(times) == steps
    assert float(times[0]) == 0.0
    assert float(times[-1]) == pytest.approx(1.0, abs=1e-6)
    assert (times.diff() > 0).all()
    even = torch.linspace(0, 1, steps)
    assert ((times <= even + 1e-6) if shift <= 1 else (times >= even - 1e-6)).all()


@pytest.mark.parametrize("steps", [2, 5])
def test_the_true_velocity_of_a_straight_flow_leads_to_the_data_in_any_number_of_steps(steps):
    data, noise = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    seen = []

    def velocity(x: Tensor, t: float) -> Tensor:
        torch.testing.assert_close(x, interpolate(data, noise, t), rtol=0, atol=1e-5)
        seen.append(t)
        return data - noise

    torch.testing.assert_close(sample_euler(velocity, noise, num_steps=steps), data, rtol=0, atol=1e-5)
    assert len(seen) == steps - 1
    assert seen[0] == 0.0


def test_the_loss_is_zero_for_the_true_velocity_and_per_image():
    data, noise, t = draw(2, 4, 4, 4), draw(2, 4, 4, 4, seed=1), torch.tensor([0.3, 0.9])

    def true_for_the_first(x, time, y):
        velocity = data - noise
        velocity[1] *= -1
        return velocity

    loss = flow_loss(true_for_the_first, data, t=t, noise=noise)
    torch.testing.assert_close(loss.squared[0], torch.tensor(0.0))
    torch.testing.assert_close(loss.cosine, torch.tensor([0.0, 2.0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(loss.squared[1], 4 * (data - noise)[1].square().mean())


def test_gradients_of_the_loss_reach_the_network_and_times_come_from_a_sigmoid():
    model, data, noise = tiny(), draw(2, 4, 4, 4), draw(2, 4, 4, 4, seed=1)
    t = logit_normal_time(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(t, torch.tensor([0.5, 0.7310586]))
    loss = flow_loss(model, data, torch.tensor([0, 3]), t=t, noise=noise)
    (loss.squared + loss.cosine).mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_bad_input_is_refused():
    data = draw(2, 4, 4, 4)
    with pytest.raises(ValueError, match=r"time must be in \[0, 1\]"):
        interpolate(data, data, 1.2)
    with pytest.raises(ValueError, match="at least 2 points"):
        time_grid(1)
    with pytest.raises(ValueError, match="positive shift"):
        time_grid(5, 0.0)
