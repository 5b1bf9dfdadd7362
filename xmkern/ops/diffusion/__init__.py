"""Diffusion: a sampler's step, a training step's noise, normal numbers. The maths is in README.md."""

from xmkern.ops.diffusion.op import diffusion_step, diffusion_step_into, dynamic_threshold, philox_normal, q_sample
from xmkern.ops.diffusion.reference import Numbers

__all__ = ["Numbers", "diffusion_step", "diffusion_step_into", "dynamic_threshold", "philox_normal", "q_sample"]
