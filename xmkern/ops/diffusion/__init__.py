"""Diffusion: a sampler's step, a training step's noise, normal numbers. The maths is in README.md."""

from xmkern.ops.diffusion.op import (
    diffusion_step,
    diffusion_step_into,
    dynamic_threshold,
    normals_at_once,
    philox_normal,
    q_sample,
    q_sample_at_once,
    step_at_once,
)
from xmkern.ops.diffusion.reference import Numbers

__all__ = [
    "Numbers", "diffusion_step", "diffusion_step_into", "dynamic_threshold", "normals_at_once", "philox_normal",
    "q_sample", "q_sample_at_once", "step_at_once",
]  # fmt: skip
