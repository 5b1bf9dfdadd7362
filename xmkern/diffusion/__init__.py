"""Samplers of diffusion models: the schedulers of diffusers, by name, configuration and protocol, and a loop.

A step is one kernel (:func:`xmkern.functional.diffusion_step`) with numbers of the host: nothing waits for the device.
Neither diffusers nor anything else is needed; where it is there, a pipeline of it runs with one of these in place of
its own:

>>> pipe.scheduler = xmkern.diffusion.DDIMScheduler.from_config(pipe.scheduler.config)

or without a pipeline:

>>> scheduler = xmkern.diffusion.DDIMScheduler(prediction_type="v_prediction")
>>> pictures = xmkern.diffusion.sample(model, scheduler, (8, 3, 32, 32), condition, guidance_scale=3.0, seed=0)
"""

from xmkern.diffusion.base import Fused, Scheduler, SchedulerOutput
from xmkern.diffusion.ddim import DDIMScheduler
from xmkern.diffusion.ddpm import DDPMScheduler
from xmkern.diffusion.dpm_solver import DPMSolverMultistepScheduler
from xmkern.diffusion.euler import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from xmkern.diffusion.pndm import PNDMScheduler
from xmkern.diffusion.repaint import RePaintScheduler
from xmkern.diffusion.sampling import sample
from xmkern.diffusion.unclip import UnCLIPScheduler

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "Fused",
    "PNDMScheduler",
    "RePaintScheduler",
    "Scheduler",
    "SchedulerOutput",
    "UnCLIPScheduler",
    "sample",
]
