"""Samples of 50 steps are those of diffusers, whatever the knobs."""

import sys

import pytest
import torch

from tests.diffusion_schedulers.trajectories import SHAPE, assert_same_ways, pairs

pytest.importorskip("diffusers")

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SPACINGS = ["linspace", "leading", "trailing"]
CLIPS = [{"clip_sample": True}, {"clip_sample": False}, {"thresholding": True, "sample_max_value": 1.5}]


def spread(ways: dict, *names: str) -> dict:
    """Some values are several knobs."""
    return {k: v for k, v in ways.items() if k not in names} | {k: v for name in names for k, v in ways[name].items()}


def label(value) -> str:
    return (
        "-".join(str(v) for v in value.values() if not isinstance(v, dict)) if isinstance(value, dict) else str(value)
    )


@pytest.mark.parametrize(
    "ways",
    pairs(
        beta_schedule=[*SCHEDULES, "sigmoid", "laplace"],
        prediction_type=PREDICTIONS,
        variance_type=["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"],
        timestep_spacing=SPACINGS,
        clip=CLIPS,
        rescale_betas_zero_snr=[False, True],
    ),
    ids=label,
)
def test_ddpm(ways, monkeypatch):
    knobs = spread(ways, "clip")
    if not_to_be_had(knobs):
        knobs["prediction_type"] = "v_prediction"
    assert_same_ways("DDPMScheduler", monkeypatch, doubled=knobs["variance_type"].startswith("learned"), **knobs)


def not_to_be_had(knobs) -> bool:
    """Nothing can be said of the original where there is only noise, and diffusers divides by 0."""
    return (
        knobs["rescale_betas_zero_snr"]
        and knobs["prediction_type"] == "epsilon"
        and knobs["timestep_spacing"] != "leading"
        and knobs.get("clip_sample") is not True
    )


@pytest.mark.parametrize(
    "ways",
    pairs(
        beta_schedule=SCHEDULES,
        prediction_type=PREDICTIONS,
        timestep_spacing=SPACINGS,
        clip=CLIPS,
        step=[{"eta": 0.0}, {"eta": 0.4, "use_clipped_model_output": True}, {"eta": 1.0}],
        set_alpha_to_one=[True, False],
        rescale_betas_zero_snr=[False, True],
    ),
    ids=label,
)
def test_ddim(ways, monkeypatch):
    knobs = spread(ways, "clip")
    if not_to_be_had(knobs):
        knobs["prediction_type"] = "sample"
    assert_same_ways("DDIMScheduler", monkeypatch, **knobs)


@pytest.mark.parametrize(
    "ways",
    pairs(
        beta_schedule=SCHEDULES,
        prediction_type=PREDICTIONS,
        timestep_spacing=SPACINGS,
        solver_order=[2, 3, 1],
        algorithm=[
            {"algorithm_type": "dpmsolver++"},
            {"algorithm_type": "sde-dpmsolver++"},
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
        ],
        solver_type=["midpoint", "heun"],
        thresholding=[False, True],
        rescale_betas_zero_snr=[False, True],
        lambda_min_clipped=[-float("inf"), -5.1],
        sigmas=[{}, {}, {"use_karras_sigmas": True}, {"use_lu_lambdas": True}, {"use_exponential_sigmas": True}],
    ),
    ids=label,
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_dpm_solver(ways, monkeypatch):
    knobs = spread(ways, "algorithm", "sigmas")
    if knobs["algorithm_type"] == "sde-dpmsolver":
        knobs["solver_order"] = min(knobs["solver_order"], 2)
    assert_same_ways("DPMSolverMultistepScheduler", monkeypatch, **knobs)


@pytest.mark.parametrize("steps", [1, 2, 3, 14])
@pytest.mark.parametrize("knobs", [{}, {"euler_at_final": True}, {"lower_order_final": False}], ids=label)
def test_dpm_solver_of_few_steps(steps, knobs, monkeypatch):
    for order in 2, 3:
        assert_same_ways(
            "DPMSolverMultistepScheduler",
            monkeypatch,
            times={"num_inference_steps": steps},
            solver_order=order,
            **knobs,
        )


def test_dpm_solver_of_flows(monkeypatch):
    for shift in 1.0, 3.0:
        assert_same_ways(
            "DPMSolverMultistepScheduler",
            monkeypatch,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
        )


@pytest.mark.parametrize(
    "ways",
    pairs(
        beta_schedule=SCHEDULES,
        prediction_type=PREDICTIONS,
        timestep_spacing=SPACINGS,
        sigmas=[
            {},
            {"interpolation_type": "log_linear"},
            {"use_karras_sigmas": True},
            {"use_exponential_sigmas": True},
        ],
        final_sigmas_type=["zero", "sigma_min"],
        rescale_betas_zero_snr=[False, True],
        timestep_type=["discrete", "continuous"],
        step=[{}, {"s_churn": 5.0, "s_noise": 0.9, "s_tmin": 0.1}],
    ),
    ids=label,
)
def test_euler(ways, monkeypatch):
    assert_same_ways("EulerDiscreteScheduler", monkeypatch, **spread(ways, "sigmas"))


@pytest.mark.parametrize(
    "ways",
    pairs(
        beta_schedule=SCHEDULES,
        prediction_type=["epsilon", "v_prediction"],
        timestep_spacing=SPACINGS,
        steps_offset=[0, 1],
        rescale_betas_zero_snr=[False, True],
    ),
    ids=label,
)
def test_euler_ancestral(ways, monkeypatch):
    assert_same_ways("EulerAncestralDiscreteScheduler", monkeypatch, **ways)


@pytest.mark.parametrize(
    "ways",
    pairs(
        prediction_type=["epsilon", "sample"],
        variance_type=["fixed_small_log", "learned_range"],
        clip_sample=[True, False],
        clip_sample_range=[1.0, 0.7],
    ),
    ids=label,
)
def test_unclip(ways, monkeypatch):
    assert_same_ways("UnCLIPScheduler", monkeypatch, doubled=ways["variance_type"] == "learned_range", **ways)


@pytest.mark.parametrize(
    "ways",
    pairs(
        beta_schedule=[*SCHEDULES, "sigmoid"],
        eta=[0.0, 0.7],
        clip_sample=[True, False],
        times=[{"jump_length": 5, "jump_n_sample": 3}, {"jump_length": 2, "jump_n_sample": 1}],
    ),
    ids=label,
)
def test_repaint(ways, monkeypatch):
    step = {"original_image": torch.linspace(-1, 1, 120).view(SHAPE), "mask": (torch.arange(5) % 2).float()}
    ways["times"]["num_inference_steps"] = 20
    assert_same_ways("RePaintScheduler", monkeypatch, step=step, **ways)


@pytest.mark.parametrize(
    "ways",
    pairs(
        beta_schedule=SCHEDULES,
        prediction_type=["epsilon", "v_prediction"],
        timestep_spacing=SPACINGS,
        skip_prk_steps=[False, True],
        set_alpha_to_one=[False, True],
        steps_offset=[0, 1],
    ),
    ids=label,
)
def test_pndm(ways, monkeypatch):
    assert_same_ways("PNDMScheduler", monkeypatch, **ways)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_sigmas_of_the_beta_distribution(name, monkeypatch):
    pytest.importorskip("scipy")
    for spacing in SPACINGS:
        assert_same_ways(name, monkeypatch, use_beta_sigmas=True, timestep_spacing=spacing)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_the_beta_distribution_needs_scipy(name, monkeypatch):
    from xmkern import diffusion

    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"use_beta_sigmas needs scipy: pip install scipy"):
        getattr(diffusion, name)(use_beta_sigmas=True).set_timesteps(5)


@pytest.mark.parametrize("steps", [1, 7, 48, 333, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_times(steps, spacing):
    import diffusers

    from xmkern import diffusion

    for name in ("DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep"):
        knobs = {"timestep_spacing": spacing} | ({"skip_prk_steps": True} if name == "PNDM" else {})
        both = [getattr(module, f"{name}Scheduler")(**knobs) for module in (diffusion, diffusers)]
        for scheduler in both:
            scheduler.set_timesteps(steps)
        ours, theirs = (scheduler.timesteps for scheduler in both)
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()[: len(ours)], name
        assert len(ours) >= steps


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("DDPMScheduler", {"timesteps": [900, 500, 20]}),
        ("EulerDiscreteScheduler", {"timesteps": [900, 500.5, 20]}),
        ("EulerDiscreteScheduler", {"sigmas": [14.0, 3.0, 0.5, 0.0]}),
        ("DPMSolverMultistepScheduler", {"timesteps": [900, 500, 20]}),
    ],
)
def test_times_of_ones_own(name, times, monkeypatch):
    assert_same_ways(name, monkeypatch, times=times)
