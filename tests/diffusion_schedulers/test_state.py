"""What a scheduler holds: copied, replaced, assigned."""

import copy
import pickle

import numpy as np
import pytest
import torch

import xmkern.diffusion as ours
from tests.diffusion_schedulers.test_protocol import every, ready
from xmkern.diffusion import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    RePaintScheduler,
    UnCLIPScheduler,
)

X = torch.full((2, 3, 4), 3.0)
E = torch.linspace(-1, 1, 24).view(2, 3, 4)


def walk(scheduler, times=None, x=X, **step):
    """The sample after all steps."""
    for t in scheduler.timesteps if times is None else times:
        x = scheduler.step(E, t, x, return_dict=False, **step)[0]
    return x


def given(scheduler):
    """The names of the knobs that were."""
    return set(scheduler.config) - set(scheduler.config["_use_default_values"]) - {"_use_default_values"}


@every
def test_copies_go_on_where_they_were(kind):
    made = ready(kind, num_train_timesteps=500)
    step = {"original_image": X, "mask": E > 0} if kind is RePaintScheduler else {}
    made.seed = 1
    times = made.timesteps[:4]
    walk(made, times[:2], **step)
    copies = copy.deepcopy(made), pickle.loads(pickle.dumps(made))
    expected = walk(made, times[2:], **step)
    for other in copies:
        assert other.config == made.config
        assert other.config is not made.config
        assert torch.equal(walk(other, times[2:], **step), expected)


def test_knobs_of_another_kind_change_nothing():
    kinds = {
        DPMSolverMultistepScheduler: DDIMScheduler(clip_sample=True, clip_sample_range=0.5),
        EulerAncestralDiscreteScheduler: EulerDiscreteScheduler(final_sigmas_type="sigma_min", use_karras_sigmas=True),
        UnCLIPScheduler: DDPMScheduler(
            thresholding=True, variance_type="fixed_small_log", beta_schedule="squaredcos_cap_v2"
        ),
        PNDMScheduler: DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=True),
    }
    for kind, other in kinds.items():
        made, plain = kind.from_config(other.config), kind()
        if kind is UnCLIPScheduler:
            plain = kind(variance_type="fixed_small_log")
        for scheduler in made, plain:
            scheduler.set_timesteps(10)
            scheduler.seed = 1
        assert torch.equal(made.timesteps, plain.timesteps)
        assert torch.equal(walk(made), walk(plain)), kind
        # and yet they are kept for the next
        back = type(other).from_config(made.config).config
        assert all(back[name] == value for name, value in other.config.items() if name in given(other))
    known = {"original_image": X, "mask": E > 2, "seed": 1}
    made = RePaintScheduler.from_config(DDPMScheduler(clip_sample=True, clip_sample_range=3.0).config)
    made.set_timesteps(10)
    assert torch.equal(walk(made, [900], **known), walk(ready(RePaintScheduler), [900], **known))


def test_a_solver_without_a_variance_leads_to_the_small_one():
    config = DPMSolverMultistepScheduler(variance_type=None).config
    made = DDPMScheduler.from_config(config)
    assert made.variance_type == made.config.variance_type == "fixed_small"
    made.set_timesteps(10)
    assert torch.equal(walk(made, seed=1), walk(ready(DDPMScheduler), seed=1))


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (DDPMScheduler, {"prediction_type": "v_prediction", "clip_sample": False}),
        (DDPMScheduler, {"variance_type": "fixed_large"}),
        (DDIMScheduler, {"clip_sample_range": 0.3}),
        (DDIMScheduler, {"thresholding": True, "sample_max_value": 2.0}),
        (PNDMScheduler, {"prediction_type": "v_prediction", "skip_prk_steps": True}),
        (EulerDiscreteScheduler, {"prediction_type": "sample", "use_karras_sigmas": True}),
        (DPMSolverMultistepScheduler, {"solver_order": 3, "solver_type": "bh2", "prediction_type": "sample"}),
        (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
        (UnCLIPScheduler, {"clip_sample_range": 0.3}),
    ],
)
def test_knobs_are_replaced(kind, knobs):
    made, replaced = kind(), kind()
    for scheduler in made, replaced:
        scheduler.set_timesteps(10)
        scheduler.seed = 1
        walk(scheduler)
    made.register_to_config(**knobs)
    replaced._internal_dict = dict(replaced.config) | knobs  # as pipelines do
    expected = kind(**knobs)
    for scheduler in made, replaced, expected:
        scheduler.set_timesteps(10)
        scheduler.seed = 1
    for scheduler in made, replaced:
        assert torch.equal(walk(scheduler), walk(expected))
        expected.restart()
    # and at once
    now, before = ready(DDIMScheduler), ready(DDIMScheduler)
    walk(now)
    now.register_to_config(clip_sample=False)
    assert not torch.equal(walk(now, [900]), walk(before, [900]))


def test_knobs_are_replaced_by_good_ones():
    betas = np.linspace(0.001, 0.02, 1000)
    made = DDPMScheduler(trained_betas=betas)
    made.register_to_config(trained_betas=betas, prediction_type="sample")
    made.set_timesteps(10)
    for name, value in {"trained_betas": betas[::-1], "beta_end": 0.5, "num_train_timesteps": 10}.items():
        with pytest.raises(ValueError, match=f"{name} must not be replaced, for the tables"):
            made.register_to_config(**{name: value})
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        made.register_to_config(prediction_type="eps")
    with pytest.raises(ValueError, match="variance_type must be one of"):
        made.register_to_config(variance_type="x")
    assert (made.config.prediction_type, made.config.variance_type) == ("sample", "fixed_small")


def test_times_are_assigned():
    made, fresh = ready(DDPMScheduler), ready(DDPMScheduler)
    walk(made, seed=1)
    for scheduler in made, fresh:
        scheduler.timesteps = torch.tensor([900, 0])
    assert torch.equal(walk(made, [900], variance_noise=E), walk(fresh, [900], variance_noise=E))
    made, fresh = ready(DDIMScheduler), DDIMScheduler()
    walk(made, [500])
    made.num_inference_steps = fresh.num_inference_steps = 2
    assert torch.equal(walk(made, [500]), walk(fresh, [500]))


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "PNDM", "UnCLIP", "EulerDiscrete", "DPMSolverMultistep"])
def test_tables_are_assigned(name):
    theirs, made = (getattr(module, f"{name}Scheduler")() for module in (pytest.importorskip("diffusers"), ours))
    made.set_timesteps(10)
    random = {} if name == "PNDM" else {"generator": torch.Generator().manual_seed(0)}
    walk(made, **random)
    kept = torch.linspace(0.99, 0.01, 1000)
    ways = []
    for scheduler in theirs, made:
        scheduler.alphas_cumprod = kept
        scheduler.set_timesteps(10)
        random = {} if name == "PNDM" else {"generator": torch.Generator().manual_seed(0)}
        ways.append(walk(scheduler, **random))
    torch.testing.assert_close(ways[1], ways[0], rtol=1e-4, atol=1e-4)


def test_other_tables_are_assigned():
    diffusers = pytest.importorskip("diffusers")
    for name, attribute, value in (
        ("EulerDiscrete", "sigmas", torch.linspace(5, 0, 11)),
        ("DPMSolverMultistep", "sigmas", torch.linspace(5, 0, 11)),
        ("DDIM", "final_alpha_cumprod", torch.tensor(0.99995)),
    ):
        theirs, made = (getattr(module, f"{name}Scheduler")() for module in (diffusers, ours))
        made.set_timesteps(10)
        walk(made)
        ways = []
        for scheduler in theirs, made:
            scheduler.set_timesteps(10)
            setattr(scheduler, attribute, value)
            ways.append(walk(scheduler))
        torch.testing.assert_close(ways[1], ways[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep"])
@pytest.mark.parametrize("steps", [10, 20])
def test_steps_are_counted_by_sigmas(name, steps):
    """Where the first times are left out, as from a picture."""
    whole, half = (getattr(ours, f"{name}Scheduler")() for _ in range(2))
    for scheduler in whole, half:
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(5)
        scheduler.seed = 1
    half.timesteps = half.timesteps[5:]
    assert torch.equal(walk(half), walk(whole, whole.timesteps[5:]))
    with pytest.raises(ValueError, match=f"{steps} steps are all made"):
        half.step(E, half.timesteps[0], X)


def test_predictions_that_are_not_contiguous_are_kept():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for dtype, graded in (torch.float64, False), (torch.float32, True):
        strided, plain = ready(DPMSolverMultistepScheduler), ready(DPMSolverMultistepScheduler)
        a, b = x.to(dtype).to(memory_format=torch.channels_last), x.to(dtype)
        for i, t in enumerate(plain.timesteps):
            slope = torch.tensor(0.1, dtype=dtype, requires_grad=graded and i < 2)
            a = strided.step((slope * a).detach() if i > 1 else slope * a, t, a.detach()).prev_sample
            b = plain.step((slope * b).detach() if i > 1 else slope * b, t, b.detach()).prev_sample
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graded", [1, 3, 5])
def test_gradients_go_through_kept_predictions(graded):
    """Also where nothing after them has one, and where memory is used again."""
    gradients = []
    for module in pytest.importorskip("diffusers"), ours:
        scheduler = module.DPMSolverMultistepScheduler(solver_order=3)
        scheduler.set_timesteps(20)
        x, w, total = E.clone(), torch.tensor(0.3, requires_grad=True), torch.zeros(())
        for i, t in enumerate(scheduler.timesteps):
            e = torch.tanh(w * x.detach())
            x = scheduler.step(e if i < graded else e.detach(), t, x.detach()).prev_sample
            total = total + x.square().sum()
            if i == graded + 4:
                break
        with torch.no_grad():
            for t in scheduler.timesteps[graded + 5 : graded + 8]:
                x = scheduler.step(x, t, x).prev_sample
        gradients.append(torch.autograd.grad(total, w)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
