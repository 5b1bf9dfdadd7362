"""Attention modules of diffusers give with our processor what they give with theirs."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from diffusers.models.attention_processor import (  # noqa: E402
    Attention,
    AttnAddedKVProcessor2_0,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)

import xmkern.diffusion as schedulers  # noqa: E402
from xmkern.integrations import diffusers as integration  # noqa: E402
from xmkern.testing import assert_matches_reference, threads  # noqa: E402

UNET = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "cross_attention_dim": 8, "attention_head_dim": 4,
}  # fmt: skip
TEXTED = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
ADDED = {
    "down_block_types": ("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
}

CASES = {
    "self": ({}, (2, 9, 16), None),
    "cross": ({"cross_attention_dim": 12}, (2, 9, 16), (2, 5, 12)),
    "cross, normed": ({"cross_attention_dim": 12, "cross_attention_norm": "layer_norm"}, (2, 9, 16), (2, 5, 12)),
    "queries and keys normed": ({"qk_norm": "rms_norm"}, (2, 9, 16), None),
    "image": ({"norm_num_groups": 4, "residual_connection": True, "rescale_output_factor": 2.0}, (2, 16, 3, 3), None),
    "added": ({"added_kv_proj_dim": 12, "norm_num_groups": 4}, (2, 16, 3, 3), (2, 5, 12)),
    "added, normed": (
        {"added_kv_proj_dim": 16, "norm_num_groups": 4, "cross_attention_norm": "layer_norm"}, (2, 16, 3, 3),
        (2, 5, 16),
    ),
    "added alone": (
        {"added_kv_proj_dim": 12, "norm_num_groups": 4, "only_cross_attention": True}, (2, 16, 3, 3), (2, 5, 12),
    ),
    "added to itself": ({"added_kv_proj_dim": 16, "norm_num_groups": 4}, (2, 16, 3, 3), None),
}  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_processor(case, masked):
    options, shape, text = CASES[case]
    torch.manual_seed(0)
    added = "added_kv_proj_dim" in options
    attn = Attention(16, heads=4, dim_head=4, bias=True, **options)
    inputs = {"x": torch.randn(shape).requires_grad_()}
    if text is not None:
        inputs["context"] = torch.randn(text).requires_grad_()
    if masked:
        keys = text[1] if text is not None else 9
        inputs["mask"] = torch.where(torch.rand(2, 1, keys) < 0.3, -10000.0, 0.0)

    def call(processor):
        wide = {"float64": attn.double, "float32": attn.float}

        def run(x, context=None, mask=None):
            wide[str(x.dtype).removeprefix("torch.")]()
            attn.set_processor(processor)
            return attn(x, encoder_hidden_states=context, attention_mask=mask)

        return run

    theirs = AttnAddedKVProcessor2_0() if added else AttnProcessor2_0()
    if masked and case in ("added alone", "added to itself"):
        pytest.skip("their mask is of other keys")
    assert_matches_reference(call(integration.AttnProcessor()), inputs, reference=call(theirs))


@pytest.mark.parametrize(("blocks", "kind"), [(TEXTED, "AttnProcessor2_0"), (ADDED, "AttnAddedKVProcessor2_0")])
def test_unet(blocks, kind):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**UNET, **blocks)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()

    def results():
        unet.zero_grad()
        out = unet(*inputs, encoder_attention_mask=mask).sample
        out.square().sum().backward()
        return [out, *(parameter.grad for parameter in unet.parameters() if parameter.grad is not None)]

    with threads(1):
        expected, state = results(), list(unet.state_dict())
        changed = integration.patch(unet)
        assert set(changed) == {kind}
        with pytest.raises(ValueError, match="no attention module with a plain processor"):
            integration.patch(unet)
        for x, y in zip(results(), expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5 * float(y.abs().max()) + 1e-6)
    assert list(unet.state_dict()) == state
    assert integration.unpatch(unet) == changed
    assert {type(each).__name__ for each in unet.attn_processors.values()} == {kind}
    with pytest.raises(ValueError, match="no attention module with a processor of ours"):
        integration.unpatch(unet)


def test_set_attn_processor_and_a_scheduler_in_a_pipeline():
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def pictures():
        generator = torch.Generator().manual_seed(3)
        return torch.from_numpy(pipe(2, generator, num_inference_steps=5, output_type="np").images)

    expected = pictures()
    integration.patch(pipe.unet)
    pipe.scheduler = schedulers.DDIMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(pictures(), expected, rtol=0, atol=1e-4)


def test_other_processors_stay():
    attn = Attention(16, heads=4, dim_head=4, processor=SlicedAttnProcessor(1))
    with pytest.raises(ValueError, match="Attention has no attention module with a plain processor"):
        integration.patch(attn)
