"""Schedulers of xmkern.diffusion against those of diffusers, and against the equations."""
