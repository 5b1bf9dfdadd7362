"""diffusers' U-Nets with random weights and ours with the same weights compute the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.models import test_parity
from tests.models.test_parity import Twin
from xmkern.models import create_model

diffusers = pytest.importorskip("diffusers")

SIZES: dict[str, Any] = {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 2}
SIZES |= {"norm_num_groups": 8, "norm_eps": 1e-5, "in_channels": 3, "out_channels": 6}


def perturbed(model: Any) -> Any:
    """Nothing may hide behind weights that begin at zero or one."""
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model


def ddpm() -> Twin:
    theirs = perturbed(
        diffusers.UNet2DModel(
            **SIZES, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=16, freq_shift=0,
        )
    )  # fmt: skip
    ours = create_model(
        "ddpm", "paper", size=16, width=32, multipliers=(1, 2), attention=(1,), head_dim=16, groups=8, dropout=0.0
    )
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([7, 700])
    return Twin(theirs, ours, lambda: ((theirs(x, t).sample, torch.cat(ours(x, t), 1)),))


def glide() -> Twin:
    theirs = perturbed(
        diffusers.UNet2DConditionModel(
            **{**SIZES, "in_channels": 7}, cross_attention_dim=24, attention_head_dim=16,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        )
    )  # fmt: skip
    ours = create_model(
        "glide", "paper", size=16, width=32, multipliers=(1, 2), depth=2, attention=(1,), head_dim=16, groups=8,
        dropout=0.0, text_dim=24, text_depth=0, text_heads=1, vocabulary=9, length=5,
    )  # fmt: skip
    x, t, text = torch.randn(2, 7, 16, 16), torch.tensor([7, 700]), torch.randn(2, 5, 24)
    return Twin(theirs, ours, lambda: ((theirs(x, t, text).sample, ours.unet(x, t, text)),))


@pytest.mark.parametrize("make", [ddpm, glide], ids=lambda make: make.__name__)
def test_same_weights(make: Callable[[], Twin]) -> None:
    test_parity.test_same_weights_give_the_same_outputs_and_gradients(make)
