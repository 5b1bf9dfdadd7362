"""DDPM's step against the survey's equations, in float64 and from betas alone."""

import math

import pytest
import torch

from xmkern.diffusion import DDPMScheduler

T = 200


def tables(scheduler):
    """b_t, a_t = 1 - b_t and abar_t, their running product"""
    b = scheduler.betas.double()
    return b, 1 - b, scheduler.alphas_cumprod.double()


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("t", [0, 1, 77, T - 1])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_a_step_draws_from_the_posterior(schedule, t, variance_type):
    scheduler = DDPMScheduler(T, beta_schedule=schedule, variance_type=variance_type, clip_sample=False)
    b, a, abar = tables(scheduler)
    before = abar[t - 1] if t else torch.ones((), dtype=torch.float64)
    generator = torch.Generator().manual_seed(t)
    x0, eps, z = torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)

    x = abar[t].sqrt() * x0 + (1 - abar[t]).sqrt() * eps
    mean = (a[t].sqrt() * (1 - before) * x + before.sqrt() * b[t] * x0) / (1 - abar[t])
    variance = (1 - before) / (1 - abar[t]) * b[t] if variance_type == "fixed_small" else b[t]
    expected = mean + (variance.sqrt() * z if t else 0)

    got = scheduler.step(eps, t, x, variance_noise=z)
    # abar is kept in float32, and b_t is found as 1 - abar_t / abar_{t-1}
    rounding = 2.0**-23 / b[t].item()
    torch.testing.assert_close(got.prev_sample, expected, rtol=rounding, atol=rounding)
    torch.testing.assert_close(got.pred_original_sample, x0, rtol=1e-6, atol=1e-6)


def test_noise_and_velocity_are_those_of_the_forward_process():
    scheduler = DDPMScheduler(T)
    abar = tables(scheduler)[2]
    x0, z = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    t = torch.tensor([0, 9, T - 1, 50])
    alpha, sigma = (level.sqrt().view(-1, 1, 1) for level in (abar[t], 1 - abar[t]))
    torch.testing.assert_close(scheduler.add_noise(x0, z, t), alpha * x0 + sigma * z)
    torch.testing.assert_close(scheduler.get_velocity(x0, z, t), alpha * z - sigma * x0)
    wrong = torch.tensor([0, 9, T, 50])
    for call in scheduler.add_noise, scheduler.get_velocity:
        with pytest.raises(ValueError, match=r"^timesteps must be 0 to 199, not \[0, 9, 200, 50\]"):
            call(x0.float(), z.float(), wrong)
        with pytest.raises(ValueError, match=r"^timesteps must be of shape \[4\] or one for all, not \[2\]"):
            call(x0, z, t[:2])
        with pytest.raises(TypeError, match=r"^timesteps must be integers, not torch.float32"):
            call(x0, z, t.float())


def test_a_learned_range_lies_between_the_posterior_and_beta():
    scheduler = DDPMScheduler(T, variance_type="learned_range", clip_sample=False)
    t, (b, _, abar) = 60, tables(scheduler)
    small = (1 - abar[t - 1]) / (1 - abar[t]) * b[t]
    x, eps, z = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), torch.ones(1, 1, 3)
    share = torch.tensor([[[-1.0, 0.0, 1.0]]])
    got = scheduler.step(torch.cat([eps, share], 1), t, x, variance_noise=z).prev_sample.flatten()
    expected = [math.sqrt(small), (small * b[t]).item() ** 0.25, math.sqrt(b[t])]
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=0)
