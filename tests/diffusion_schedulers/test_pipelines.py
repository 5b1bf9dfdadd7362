"""Pipelines of diffusers make the same pictures with our schedulers in place of theirs."""

import numpy as np
import pytest
import torch

import xmkern.diffusion as ours

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ).eval()


def swapped(pipe) -> None:
    scheduler = getattr(ours, type(pipe.scheduler).__name__).from_config(pipe.scheduler.config)
    assert not isinstance(scheduler, diffusers.SchedulerMixin)
    pipe.scheduler = scheduler


@pytest.mark.parametrize(
    ("pipeline", "scheduler", "options"),
    [
        ("DDPMPipeline", "DDPMScheduler", {}),
        ("DDPMPipeline", "DPMSolverMultistepScheduler", {}),
        ("DDIMPipeline", "DDIMScheduler", {"eta": 0.5, "use_clipped_model_output": True}),
    ],
)
def test_unconditional(unet, pipeline, scheduler, options):
    pipe = getattr(diffusers, pipeline)(unet, getattr(diffusers, scheduler)())
    pipe.set_progress_bar_config(disable=True)

    def pictures():
        generator = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
        return pipe(batch_size=2, generator=generator, num_inference_steps=10, output_type="np", **options).images

    expected = pictures()
    swapped(pipe)
    np.testing.assert_allclose(pictures(), expected, atol=1e-4)


@pytest.mark.parametrize(
    "scheduler",
    ["DDIM", "DDPM", "DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "PNDM"],
)
def test_latent_with_guidance(scheduler):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).eval()
    knobs = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    knobs |= {"PNDM": {"skip_prk_steps": True}, "DDIM": {"clip_sample": False}, "DDPM": {"clip_sample": False}}.get(
        scheduler, {}
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=getattr(diffusers, f"{scheduler}Scheduler")(**knobs),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    words, none = torch.randn(2, 1, 3, 8)

    def latents():
        return pipe(
            prompt_embeds=words,
            negative_prompt_embeds=none,
            generator=torch.Generator().manual_seed(3),
            num_inference_steps=8,
            height=8,
            width=8,
            output_type="latent",
        ).images

    expected = latents()
    swapped(pipe)
    torch.testing.assert_close(latents(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
