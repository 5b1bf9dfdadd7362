"""Configurations, state, and bad input."""

import inspect
import json

import numpy as np
import pytest
import torch

import xmkern.diffusion as ours
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

ALL = [
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    RePaintScheduler,
    UnCLIPScheduler,
]
every = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


@every
def test_the_signatures_of_diffusers(kind):
    theirs = getattr(pytest.importorskip("diffusers"), kind.__name__)
    for method in "__init__", "step", "set_timesteps", "add_noise":
        expected = inspect.signature(getattr(theirs, method)).parameters
        got = inspect.signature(getattr(kind, method)).parameters
        assert list(got)[: len(expected)] == list(expected)
        for name, parameter in expected.items():
            assert got[name].default == parameter.default or parameter.default is None
    for name in dir(theirs()):
        if not name.startswith("_") and name not in NOT_OURS:
            assert hasattr(kind(), name), name


# Of the hub, of loading, of what was renamed, and steps that one kernel makes.
NOT_OURS = {
    "compatibles", "has_compatibles", "ignore_for_config", "push_to_hub", "load_config", "extract_init_dict",
    "get_config_dict", "to_json_file", "to_json_string", "register_for_auto_class", "convert_model_output", "one",
    "dpm_solver_first_order_update", "multistep_dpm_solver_second_order_update", "is_scale_input_called",
    "multistep_dpm_solver_third_order_update", "use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas",
    "pndm_order", "cur_model_output", "prk_timesteps", "plms_timesteps", "alpha_t", "sigma_t", "lambda_t",
}  # fmt: skip


@every
def test_a_configuration_is_read_and_written(kind, tmp_path):
    made = kind(num_train_timesteps=500)
    assert len(made) == made.config.num_train_timesteps == made.config["num_train_timesteps"] == 500
    made.save_pretrained(tmp_path / "scheduler")
    assert json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())["_class_name"] == kind.__name__
    read = kind.from_pretrained(tmp_path, subfolder="scheduler")
    assert {k: v for k, v in read.config.items() if k[0] != "_"} == {
        k: v for k, v in made.config.items() if k[0] != "_"
    }
    assert kind.from_config(made.config, num_train_timesteps=400).config.num_train_timesteps == 400
    with pytest.raises(TypeError, match="cannot be changed"):
        made.config.num_train_timesteps = 3
    with pytest.raises(TypeError, match=f"{kind.__name__} has no nonsense; it has num_train_timesteps"):
        kind.from_config(made.config, nonsense=3)


@every
def test_configurations_go_to_diffusers_and_back(kind, tmp_path):
    theirs = getattr(pytest.importorskip("diffusers"), kind.__name__)
    there = theirs.from_config(kind(num_train_timesteps=500).config)
    assert there.config.num_train_timesteps == 500
    assert len(kind.from_config(there.config)) == 500
    there.save_pretrained(tmp_path)
    assert len(kind.from_pretrained(tmp_path)) == 500
    kind(num_train_timesteps=300).save_pretrained(tmp_path)
    assert theirs.from_pretrained(tmp_path).config.num_train_timesteps == 300


def test_only_what_was_given_goes_to_another_kind():
    diffusers = pytest.importorskip("diffusers")
    for module in ours, diffusers:
        leading = DDPMScheduler.from_config(module.DDPMScheduler(timestep_spacing="leading", beta_end=0.01).config)
        assert EulerDiscreteScheduler.from_config(leading.config).config.timestep_spacing == "leading"
        silent = module.DDPMScheduler(beta_end=0.01, variance_type="fixed_large")
        euler = EulerDiscreteScheduler.from_config(silent.config)
        assert (euler.config.timestep_spacing, euler.config.beta_end) == ("linspace", 0.01)
        # and what another kind does not know comes back
        assert DDPMScheduler.from_config(euler.config).variance_type == "fixed_large"


def test_outputs_go_by_name_and_by_place():
    x = torch.randn(2, 3, 4)
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)
    output = scheduler.step(x, 250, x)
    plain = scheduler.step(x, 250, x, return_dict=False)
    assert output.prev_sample is output[0]
    assert output.pred_original_sample is output[1]
    assert output["prev_sample"] is output[0]
    with pytest.raises(KeyError):
        output["count"]
    assert torch.equal(output[0], plain[0])
    assert len(plain) == 2
    solver = DPMSolverMultistepScheduler()
    solver.set_timesteps(4)
    assert len(solver.step(x, 999, x, return_dict=False)) == 1


def test_steps_are_counted_from_where_they_begin():
    x = torch.randn(2, 3, 4)
    for kind in EulerDiscreteScheduler, DPMSolverMultistepScheduler:
        scheduler = kind()
        scheduler.set_timesteps(10)
        assert scheduler.step_index is None
        scheduler.step(x, scheduler.timesteps[4], x)
        assert (scheduler.step_index, scheduler.begin_index) == (5, None)
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(7)
        scheduler.step(x, scheduler.timesteps[0], x)
        assert scheduler.step_index == 8


def test_noise_goes_to_where_sampling_begins():
    diffusers = pytest.importorskip("diffusers")
    x, z = torch.randn(2, 3, 4, 5)
    for name in "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler":
        theirs, mine = getattr(diffusers, name)(), getattr(ours, name)()
        for scheduler in theirs, mine:
            scheduler.set_timesteps(20)
        t = theirs.timesteps[[3, 9, 19]]
        torch.testing.assert_close(mine.add_noise(x, z, t), theirs.add_noise(x, z, t))
        for scheduler in theirs, mine:
            scheduler.set_begin_index(5)
        torch.testing.assert_close(mine.add_noise(x, z, t[:1]), theirs.add_noise(x, z, t[:1].expand(3)))


def test_a_seed_draws_inside_the_kernel():
    x, e = torch.randn(2, 2, 3, 8)
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(10)
    first, second = (scheduler.step(e, 900, x, seed=7).prev_sample for _ in range(2))
    assert not torch.equal(first, second)
    scheduler.set_timesteps(10)
    scheduler.seed = 7
    assert torch.equal(scheduler.step(e, 900, x).prev_sample, first)
    by_torch = scheduler.step(e, 900, x, generator=torch.Generator().manual_seed(7)).prev_sample
    assert not torch.equal(by_torch, second)


def test_in_place_and_with_guidance():
    x = torch.randn(2, 3, 8)
    e = torch.randn(4, 3, 8)
    for kind in ALL:
        if kind is RePaintScheduler:
            continue
        plain, fused = kind(), kind()
        a, b = x.clone(), x.clone()
        for scheduler in plain, fused:
            scheduler.set_timesteps(6)
            scheduler.seed = 1
        for i, t in enumerate(plain.timesteps):
            both = e * (1 + 0.1 * i)
            a = plain.step(torch.lerp(both[:2], both[2:], 3.0), t, a).prev_sample
            fused.step(both, t, b, guidance_scale=3.0, out=(b, None))
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4, msg=kind.__name__)


def test_numbers_of_numpy_are_numbers():
    x = torch.randn(2, 3, 4)
    for kind in ALL:
        scheduler, same = kind(np.int64(500)), kind(500)
        scheduler.set_timesteps(np.int64(10))
        same.set_timesteps(10)
        assert type(scheduler.num_inference_steps) is int
        known = {"original_image": x, "mask": x > 0} if kind is RePaintScheduler else {}
        options = {"seed": 1, "return_dict": False, **known}
        t = same.timesteps[0].numpy()[()]
        assert torch.equal(scheduler.step(x, t, x, **options)[0], same.step(x, t.item(), x, **options)[0]), kind


def test_a_model_may_see_samples_at_a_count_of_times():
    scheduler = ready(EulerDiscreteScheduler)
    x = torch.randn(2, 3, 4)
    for t in 999, torch.tensor(999):
        assert torch.equal(scheduler.scale_model_input(x, t), ready(EulerDiscreteScheduler).scale_model_input(x, 999.0))
        with pytest.raises(ValueError, match="not a count of steps"):
            scheduler.step(x, t, x)


@pytest.mark.parametrize("types", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "DPMSolverMultistep", "EulerDiscrete", "PNDM", "UnCLIP"])
def test_a_model_may_be_of_another_type(name, types):
    diffusers = pytest.importorskip("diffusers")
    kinds = [getattr(module, f"{name}Scheduler") for module in (diffusers, ours)]
    sample, output = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(i)).to(types[i]) for i in range(2))
    ways = []
    for scheduler in (kind(**({"skip_prk_steps": True} if name == "PNDM" else {})) for kind in kinds):
        scheduler.set_timesteps(10)
        x = sample * scheduler.init_noise_sigma
        options = {} if name == "PNDM" else {"generator": torch.Generator().manual_seed(3)}
        for t in scheduler.timesteps[:4]:
            x = scheduler.step(output, t, x, return_dict=False, **options)[0]
        ways.append(x)
    torch.testing.assert_close(ways[1], ways[0], rtol=1e-2, atol=1e-2 * ways[0].abs().max().item())
    # in place it stays as it was
    fused, x = ready(kinds[1]), sample.clone()
    made = fused.step(output, fused.timesteps[0], x, seed=1, out=(x, None))[0]
    expected = ready(kinds[1]).step(output.float(), fused.timesteps[0], sample.float(), seed=1)[0]
    assert made is x
    assert torch.equal(x, expected.to(types[0]))


def test_noise_of_a_seed_goes_on_where_types_differ():
    x = torch.randn(2, 3, 4)
    mixed, plain = ready(DDPMScheduler), ready(DDPMScheduler)
    for t in plain.timesteps[:2]:
        y = mixed.step(x.bfloat16(), t, x, seed=4).prev_sample
        assert torch.equal(y, plain.step(x.bfloat16().float(), t, x, seed=4).prev_sample)


def test_all_noise_at_a_time_of_no_signal():
    scheduler = ready(
        DDIMScheduler, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
    )
    x, z = torch.randn(2, 2, 3, 4)
    for steps in range(1, 60):  # with some of which rounding leaves less than nothing
        scheduler.set_timesteps(steps)
        got = scheduler.step(torch.zeros_like(x), 999, x, eta=1.0, variance_noise=z).prev_sample
        previous = 999 - 1000 // steps
        before = scheduler.alphas_cumprod[previous].item() if previous >= 0 else 1.0
        torch.testing.assert_close(got, (1 - before) ** 0.5 * z, msg=str(steps))


def ready(kind, **knobs):
    scheduler = kind(**knobs)
    scheduler.set_timesteps(10)
    return scheduler


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: DDPMScheduler(beta_schedule="cubic"), ValueError, "beta_schedule must be one of 'linear'"),
        (lambda x: DDPMScheduler(variance_type="x"), ValueError, "variance_type must be one of"),
        (lambda x: DDPMScheduler(prediction_type="x"), ValueError, "prediction_type must be one of"),
        (lambda x: DDPMScheduler(num_train_timesteps=0), ValueError, "num_train_timesteps must be an integer"),
        (lambda x: DDPMScheduler(3, trained_betas=[0.1, 0.0, 0.1]), ValueError, "trained_betas must be 3"),
        (lambda x: ready(DDPMScheduler, timestep_spacing="x"), ValueError, "timestep_spacing must be one of"),
        (
            lambda x: DDPMScheduler().set_timesteps(2000),
            ValueError,
            "num_inference_steps must be an integer from 1 to 1000",
        ),
        (lambda x: DDPMScheduler().set_timesteps(timesteps=[1, 5]), ValueError, "timesteps must descend"),
        (lambda x: DDPMScheduler().set_timesteps(timesteps=[1000, 5]), ValueError, "at most 999"),
        (lambda x: DDPMScheduler().set_timesteps(timesteps=[]), ValueError, "timesteps must descend"),
        (lambda x: EulerDiscreteScheduler().set_timesteps(timesteps=[]), ValueError, "timesteps must be at least 1"),
        (lambda x: EulerDiscreteScheduler().set_timesteps(sigmas=[1.0]), ValueError, "sigmas must be at least 2"),
        (lambda x: DPMSolverMultistepScheduler().set_timesteps(timesteps=()), ValueError, "timesteps must be at least"),
        (lambda x: ready(DDPMScheduler).step(x, 901, x), ValueError, "timestep must be one of scheduler.timesteps"),
        (lambda x: ready(DDPMScheduler).step(x, 1000, x), ValueError, "timestep must be one of scheduler.timesteps"),
        (
            lambda x: ready(DDIMScheduler).step(x, 1000, x),
            ValueError,
            "timestep must be an integer from 0 to 999, not 1000",
        ),
        (
            lambda x: ready(DDIMScheduler).step(x, -1, x),
            ValueError,
            "timestep must be an integer from 0 to 999, not -1",
        ),
        (lambda x: ready(DDIMScheduler).step(x, torch.arange(2), x), ValueError, "timestep must be one number"),
        (lambda x: ready(DDIMScheduler).step(x, 900, x, eta=-1.0), ValueError, "eta must be 0 to 1"),
        (lambda x: ready(DDIMScheduler).step(x, 900, x, eta=float("nan")), ValueError, "eta must be 0 to 1"),
        (lambda x: DDIMScheduler().step(x, 900, x), ValueError, "num_inference_steps is not known"),
        (lambda x: ready(DDIMScheduler).step(x[:1], 900, x), ValueError, "model_output must be of shape"),
        (lambda x: ready(DDIMScheduler).step(x.tolist(), 900, x), TypeError, "model_output must be a tensor, not list"),
        (
            lambda x: ready(DDPMScheduler).step(x, 900, x, variance_noise=x[:1]),
            ValueError,
            "noise must be of shape",
        ),
        (
            lambda x: ready(DDPMScheduler).step(x, 900, x, generator=[torch.Generator()] * 3),
            ValueError,
            "generator must be a list of 2, one for each sample, not 3",
        ),
        (lambda x: ready(EulerDiscreteScheduler).step(x, 0, x), ValueError, "not a count of steps, 0"),
        (
            lambda x: ready(EulerDiscreteScheduler).step(x, 0.5, x),
            ValueError,
            "timestep must be one of scheduler.timesteps",
        ),
        (
            lambda x: ready(EulerDiscreteScheduler).step(x, 999.0, x, s_churn=1.0, s_noise=float("inf")),
            ValueError,
            "coefficients.churn must be finite",
        ),
        (
            lambda x: DDIMScheduler.from_config(
                ready(DDIMScheduler, rescale_betas_zero_snr=True, clip_sample=False).config, timestep_spacing="trailing"
            ),
            None,
            "",
        ),
        (lambda x: DPMSolverMultistepScheduler(solver_order=4), ValueError, "solver_order must be one of 1, 2, 3"),
        (
            lambda x: DPMSolverMultistepScheduler(algorithm_type="dpmsolver"),
            ValueError,
            "final_sigmas_type must be 'sigma_min'",
        ),
        (
            lambda x: DPMSolverMultistepScheduler(use_karras_sigmas=True, use_exponential_sigmas=True),
            ValueError,
            "only one of use_karras_sigmas",
        ),
        (lambda x: ready(UnCLIPScheduler).step(x, 999, x, prev_timestep=999), ValueError, "prev_timestep must be less"),
        (lambda x: UnCLIPScheduler().set_timesteps(1), ValueError, "num_inference_steps must be at least 2"),
        (lambda x: PNDMScheduler().set_timesteps(3), ValueError, "num_inference_steps must be at least 4"),
        (lambda x: RePaintScheduler().set_timesteps(10, jump_length=0), ValueError, "jump_length and jump_n_sample"),
        (lambda x: RePaintScheduler().set_timesteps(0), ValueError, "num_inference_steps must be an integer from 1"),
        (lambda x: RePaintScheduler().set_timesteps(10.0), ValueError, "num_inference_steps must be an integer from 1"),
        (lambda x: UnCLIPScheduler(variance_type=None), ValueError, "variance_type must be one of"),
        (lambda x: DDIMScheduler.from_config("path"), TypeError, "config must be a dictionary"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    x = torch.randn(2, 3, 4)
    if error is None:
        scheduler = call(x)
        scheduler.set_timesteps(10)
        error, message = ValueError, "prediction_type must not be 'epsilon'"
        with pytest.raises(error, match=message):
            scheduler.step(x, 999, x)
        return
    with pytest.raises(error, match=message):
        call(x)


def test_steps_that_are_all_made_are_refused():
    x = torch.randn(2, 3, 4)
    scheduler = ready(EulerDiscreteScheduler)
    for t in scheduler.timesteps:
        scheduler.step(x, t, x)
    with pytest.raises(ValueError, match="call set_timesteps before"):
        scheduler.step(x, scheduler.timesteps[0], x)
