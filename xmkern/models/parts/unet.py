"""The U-Net of diffusion models."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.nn import CrossAttention, SelfAttention

# Of diffusers' U-Nets, for what has a :class:`UNet` as ``unet``.
DIFFUSERS_NAMES = (
    (r"^(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.(conv\.)", r"unet.\1.\2.resample.\4"),
    (r"^(down|up)_blocks\.(\d+)\.(down|up)samplers\.0", r"unet.\1.\2.resample.residual"),
    (r"^(down|up)_blocks", r"unet.\1"),
    (r"^mid_block", "unet.middle"),
    (r"^conv_norm_out", "unet.norm_out"),
    (r"^conv_(in|out)", r"unet.conv_\1"),
    (r"^time_embedding\.linear_1", "unet.time.0"),
    (r"^time_embedding\.linear_2", "unet.time.2"),
    (r"time_emb_proj", "embedding"),
    (r"conv_shortcut", "shortcut"),
    (r"group_norm", "norm"),
    (r"\.to_([qkv])\.", r".attention.\1."),
    (r"\.add_([kv])_proj\.", r".attention.added_\1."),
    (r"\.to_out\.0\.", ".attention.out."),
)


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """[B] -> [B, dim]: cosines and then sines of t at frequencies from 1 down to 1 / 10000."""
    frequencies = torch.exp(torch.arange(dim // 2, device=t.device) * (-math.log(10000) / (dim // 2)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class UNet(nn.Module):
    """From noisy pictures and their times to what a sampler asks for (Ho et al., 2020; Dhariwal and Nichol, 2021).

    Axes: ``B`` batch, ``C`` channels, ``T`` tokens of a context, ``E`` its embedding, ``M`` = 4 width the embedding of
    time and condition.

    Args:
        channels, out_channels: of the pictures that go in and come out.
        width: channels of the first level.
        multipliers: of the width, one a level; each level has half the side of the one before.
        depth: residual blocks of a level.
        attention: at which levels places attend to each other; between the ways down and up they always do.
        head_dim: of a head, None for a single head.
        context_dim: E, for attention to a context and to the places together (GLIDE); None for none.
        classes: how many kinds of pictures; 0 for none.
        scale_shift: whether the time scales and shifts what is normed, rather than being added before.
        residual_resampling: whether a residual block halves or doubles the side, rather than a convolution.
        patch: side of the squares of pixels that are one place of the first level.
        groups: of the norms.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        width: int,
        multipliers: Sequence[int],
        depth: int,
        attention: Sequence[int],
        *,
        head_dim: int | None = None,
        context_dim: int | None = None,
        classes: int = 0,
        scale_shift: bool = False,
        residual_resampling: bool = False,
        dropout: float = 0.0,
        patch: int = 1,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        block: dict[str, Any] = {
            "time_dim": 4 * width,
            "scale_shift": scale_shift,
            "dropout": dropout,
            "groups": groups,
        }
        attend: dict[str, Any] = {"head_dim": head_dim, "context_dim": context_dim, "groups": groups}
        resample: dict[str, Any] = {"residual": residual_resampling, **block}
        widths = [width * multiplier for multiplier in multipliers]
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.classes = nn.Embedding(classes, 4 * width) if classes else None
        self.conv_in = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down: Any = nn.ModuleList()
        skips, before = [widths[0]], widths[0]
        for level, now in enumerate(widths):
            blocks = [Residual(now if i else before, now, **block) for i in range(depth)]
            attentions = [PlaceAttention(now, **attend) for _ in blocks if level in attention]
            last = level == len(widths) - 1
            self.down.append(Level(blocks, attentions, None if last else Resample(now, False, **resample)))
            skips += [now] * (depth + (not last))
            before = now
        ends = [Residual(before, before, **block) for _ in range(2)]
        self.middle = Level(ends, [PlaceAttention(before, **attend)], None)
        self.up: Any = nn.ModuleList()
        for level, now in reversed(list(enumerate(widths))):
            blocks = [Residual((now if i else before) + skips.pop(), now, **block) for i in range(depth + 1)]
            attentions = [PlaceAttention(now, **attend) for _ in blocks if level in attention]
            self.up.append(Level(blocks, attentions, Resample(now, True, **resample) if level else None))
            before = now
        self.norm_out = nn.GroupNorm(groups, before)
        self.conv_out = nn.Conv2d(before, out_channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        condition: Tensor | None = None,
        classes: Tensor | None = None,
    ) -> Tensor:
        """Args:
            x: [B, C, H, W].
            t: [B], or one for all.
            context: [B, T, E], where the network has ``context_dim``.
            condition: [B, M], added to the time's embedding.
            classes: int64 [B], where the network has them.

        Returns:
            [B, out_channels, H, W].
        """
        time = self.time(time_embedding(t.expand(len(x)), self.width).to(x.dtype))
        if condition is not None:
            time = time + condition
        if self.classes is not None:
            time = time + self.classes(classes)
        time = F.silu(time)
        x = self.conv_in(pixel_unshuffle(x, self.patch))
        kept = [x]
        for level in self.down:
            for i, block in enumerate(level.resnets):
                x = level.attend(i, block(x, time), context)
                kept.append(x)
            if level.resample is not None:
                x = level.resample(x, time)
                kept.append(x)
        first, second = self.middle.resnets
        x = second(self.middle.attend(0, first(x, time), context), time)
        for level in self.up:
            for i, block in enumerate(level.resnets):
                x = level.attend(i, block(torch.cat([x, kept.pop()], 1), time), context)
            if level.resample is not None:
                x = level.resample(x, time)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch)


class Level(nn.Module):
    """What a level is made of."""

    def __init__(self, resnets: list["Residual"], attentions: list["PlaceAttention"], resample: nn.Module | None):
        super().__init__()
        self.resnets: Any = nn.ModuleList(resnets)
        self.attentions: Any = nn.ModuleList(attentions)
        self.resample = resample

    def attend(self, i: int, x: Tensor, context: Tensor | None) -> Tensor:
        return self.attentions[i](x, context) if self.attentions else x


class Residual(nn.Module):
    """Two convolutions, between which the time's embedding [B, M] comes in, beside a way past them."""

    def __init__(
        self, channels: int, out: int, *, time_dim: int, scale_shift: bool, dropout: float, groups: int, side: float = 1
    ) -> None:
        super().__init__()
        self.side, self.scale_shift = side, scale_shift
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, out)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.embedding = nn.Linear(time_dim, out * (1 + scale_shift))
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(resized(F.silu(self.norm1(x)), self.side))
        embedded = self.embedding(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedded.chunk(2, 1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + embedded)
        return self.shortcut(resized(x, self.side)) + self.conv2(self.dropout(F.silu(h)))


class Resample(nn.Module):
    """Half or double the side, by a residual block or one convolution."""

    def __init__(self, channels: int, up: bool, *, residual: bool, **block: Any) -> None:
        super().__init__()
        self.side = 2.0 if up else 0.5
        self.residual = Residual(channels, channels, side=self.side, **block) if residual else None
        self.conv = None if residual else nn.Conv2d(channels, channels, 3, 1 if up else 2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if self.residual is not None:
            return self.residual(x, time)
        assert self.conv is not None
        return self.conv(resized(x, max(1, self.side)))


def resized(x: Tensor, side: float) -> Tensor:
    if side == 1:
        return x
    return F.interpolate(x, scale_factor=side) if side > 1 else F.avg_pool2d(x, 2)


def pixel_unshuffle(x: Tensor, side: int) -> Tensor:
    """As torch's, which does nothing to an empty batch."""
    B, C, H, W = x.shape
    return F.pixel_unshuffle(x, side) if B else x.reshape(0, C * side**2, H // side, W // side)


class PlaceAttention(nn.Module):
    """Each place attends to all places, and in the same softmax to the tokens of a context where there is one."""

    def __init__(self, channels: int, *, head_dim: int | None, context_dim: int | None, groups: int) -> None:
        super().__init__()
        heads = 1 if head_dim is None else channels // head_dim
        self.norm = nn.GroupNorm(groups, channels)
        self.attention: Any = (
            SelfAttention(channels, heads)
            if context_dim is None
            else CrossAttention(channels, heads, [channels, context_dim])
        )
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, C, H, W] and [B, T, E] -> [B, C, H, W]"""
        places = self.norm(x).flatten(2).mT
        attended = self.attention(places) if context is None else self.attention(places, [places, context])
        return x + attended.mT.reshape(x.shape)
