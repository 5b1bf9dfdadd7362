"""The loop."""

import pytest
import torch

import xmkern.diffusion as ours
from xmkern.diffusion import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, RePaintScheduler, sample

SHAPE = (2, 3, 4, 4)


def model(x, t, condition=None):
    y = 0.5 * torch.tanh(x + 1e-3 * float(t))
    return y if condition is None else y + condition[:, :, None, None]


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "DPMSolverMultistep", "EulerAncestralDiscrete", "PNDM", "UnCLIP"])
def test_the_loop_is_that_of_diffusers(name):
    theirs = getattr(pytest.importorskip("diffusers"), f"{name}Scheduler")()
    generator = torch.Generator().manual_seed(0)
    theirs.set_timesteps(12)
    x = torch.randn(SHAPE, generator=generator) * theirs.init_noise_sigma
    options = {} if name == "PNDM" else {"generator": generator}
    for t in theirs.timesteps:
        x = theirs.step(model(theirs.scale_model_input(x, t), t), t, x, return_dict=False, **options)[0]
    mine = getattr(ours, f"{name}Scheduler")()
    got = sample(model, mine, SHAPE, steps=12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", [DDPMScheduler(), EulerDiscreteScheduler()])
def test_guidance_is_that_of_two_predictions(scheduler):
    condition, none = torch.randn(2, 2, 3)

    def guided(x, t):
        return torch.lerp(model(x, t, none), model(x, t, condition), 2.5)

    options = {"steps": 10, "seed": 3}
    got = sample(model, scheduler, SHAPE, condition, 2.5, unconditional=none, **options)
    torch.testing.assert_close(got, sample(guided, scheduler, SHAPE, **options), rtol=1e-4, atol=1e-4)


def test_a_seed_gives_the_same_sample_wherever_it_is_written():
    scheduler = DDPMScheduler()
    first = sample(model, scheduler, SHAPE, steps=5, seed=1)
    out = torch.empty(SHAPE)
    again = sample(model, scheduler, SHAPE, steps=5, seed=1, out=out)
    assert again.data_ptr() == out.data_ptr()
    assert torch.equal(first, out)
    assert not torch.equal(first, sample(model, scheduler, SHAPE, steps=5, seed=2))
    given = sample(model, scheduler, SHAPE, torch.zeros(2, 3), 3.0, steps=5, seed=1, out=out)
    assert given.data_ptr() == out.data_ptr()


def test_what_a_callback_returns_replaces_the_sample():
    seen = []

    def callback(i, t, x):
        seen.append((i, int(t)))
        return torch.zeros_like(x) if i == 3 else None

    got = sample(lambda x, t: torch.zeros_like(x), DDIMScheduler(), SHAPE, steps=4, seed=0, callback=callback)
    assert seen == [(0, 750), (1, 500), (2, 250), (3, 0)]
    assert not got.any()


def test_latents_and_models_of_diffusers():
    class Output:
        sample = torch.zeros(SHAPE)

    latents = torch.full(SHAPE, 0.01)
    got = sample(
        lambda x, t: Output(), DDIMScheduler(clip_sample=False), SHAPE, steps=4, latents=latents, progress=True
    )
    assert (got > 0.1).all()


def test_what_is_known_is_kept():
    picture = torch.linspace(-1, 1, 96).view(SHAPE)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    scheduler = RePaintScheduler()
    scheduler.set_timesteps(20, jump_length=4, jump_n_sample=2)
    for randomness in {"seed": 1}, {"generator": torch.Generator().manual_seed(1)}:
        got = sample(model, scheduler, SHAPE, steps=None, original_image=picture, mask=mask, **randomness)
        torch.testing.assert_close(got[..., :2], picture[..., :2])
        assert got[..., 2:].abs().max() < 5


@pytest.mark.parametrize("name", ["DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "PNDM", "DPMSolverMultistep"])
def test_a_way_is_gone_again(name):
    scheduler = getattr(ours, f"{name}Scheduler")()
    scheduler.set_timesteps(6)
    first, second = (sample(model, scheduler, SHAPE, steps=None, seed=1) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, sample(model, scheduler, SHAPE, steps=6, seed=1))


def test_a_way_from_the_middle_is_gone_again():
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    scheduler.timesteps = scheduler.timesteps[2:]
    scheduler.set_begin_index(2)
    first, second = (sample(model, scheduler, SHAPE, steps=None, seed=1) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["DDPM", "EulerDiscrete", "PNDM", "DPMSolverMultistep"])
@pytest.mark.parametrize("knobs", [{}, {"skip_prk_steps": True}], ids=str)
def test_models_may_return_what_they_saw_or_keep_what_they_return(name, knobs):
    if knobs and name != "PNDM":
        return
    scheduler, memory = getattr(ours, f"{name}Scheduler")(**knobs), torch.empty(SHAPE)
    options = {"steps": 10, "seed": 1}
    expected = sample(lambda x, t: x.clone(), scheduler, SHAPE, **options)
    assert torch.equal(sample(lambda x, t: x, scheduler, SHAPE, **options), expected)
    assert torch.equal(sample(lambda x, t: memory.copy_(x), scheduler, SHAPE, **options), expected)


def test_the_first_noise_too_is_of_the_schedulers_seed():
    scheduler = DDPMScheduler()
    expected = sample(model, scheduler, SHAPE, steps=4, seed=3)
    scheduler.seed = 3
    assert torch.equal(sample(model, scheduler, SHAPE, steps=4), expected)


@pytest.mark.parametrize("name", ["DDPM", "EulerDiscrete", "PNDM", "DPMSolverMultistep"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_models_may_be_of_another_type(name, dtype):
    scheduler = getattr(ours, f"{name}Scheduler")()
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    options = {"steps": 12, "seed": 1}
    got = sample(lambda x, t: model(x, t).to(other), scheduler, SHAPE, dtype=dtype, **options)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), sample(model, scheduler, SHAPE, **options), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "seed and generator"),
        ({"guidance_scale": 2.0}, TypeError, "condition must be a tensor"),
        ({"guidance_scale": 2.0, "condition": torch.zeros(3, 3)}, ValueError, "condition must be of 2 samples"),
        ({"nonsense": 2.0}, TypeError, "nonsense"),
        ({"latents": torch.zeros(1, 3, 4, 4)}, ValueError, r"latents must be of shape \[2, 3, 4, 4\], not"),
        ({"out": torch.zeros(3, 3, 4, 4)}, ValueError, r"out must be of shape \[2, 3, 4, 4\], not"),
    ],
)
def test_bad_input_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        sample(model, DDIMScheduler(), SHAPE, steps=2, **options)
