"""Training: what is drawn into a batch, how it is varied, what is minimised."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.data.augment import move
from xmkern.data.emoji import EmojiSet
from xmkern.demo.model import DualEncoder, normalise
from xmkern.demo.text import Tokens, tokenize
from xmkern.functional import multi_positive_info_nce

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Recipe:
    """How long and how. Training stops at ``steps``, or cools down early so as to stop at ``seconds``."""

    steps: int = 450
    seconds: float = 120.0
    batch: int = 192
    rate: float = 4e-3
    weight_decay: float = 0.05
    tone_weight: float = 0.25
    group_weight: float = 0.5
    hash_weight: float = 1.0
    seed: int = 0
    test_share: float = 0.12
    checks: int = 8


@dataclass
class Curve:
    """What was seen on the way: smoothed loss by step, and recall@10 by step where it was looked at."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    check_steps: list[int] = field(default_factory=list)
    checks: list[float] = field(default_factory=list)
    seconds: float = 0.0


def to_planes(images: np.ndarray) -> Tensor:
    """uint8 ``[N, H, W, 3]`` to a tensor ``[N, 3, H, W]``, channels last in memory, which the convolutions prefer."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def vary(pictures: Tensor) -> Tensor:
    """Turns, stretches, shifts and tints each of uint8 ``[B, 3, H, W]``; white comes in at the borders."""
    count = len(pictures)
    moved = 255 * move(pictures.float() / 255, turn=0.25, stretch=0.25, shift=0.15)
    tint = 1 + (torch.rand(count, 3, 1, 1) - 0.5) * 0.3
    light = (torch.rand(count, 1, 1, 1) - 0.5) * 50
    return normalise(moved * tint + light).contiguous(memory_format=torch.channels_last)


def hash_loss(picture: Tensor, text: Tensor, ids: Tensor) -> Tensor:
    """Contrast of relaxed codes, numbers ``[B, K]``, with terms that push them to +-1 and each bit to be even.

    Rows of equal ids show the same picture.

    tanh stands for the sign (as in Cao et al., HashNet, ICCV 2017); the quantisation and balance terms are those of
    Gong and Lazebnik (ITQ, CVPR 2011) and Weiss et al. (Spectral Hashing, NIPS 2008).
    """
    picture, text = picture.tanh(), text.tanh()
    # Agreement in -1..1; a temperature of 1/12 is about two bits of 64.
    loss = multi_positive_info_nce(picture, text, 12 / picture.shape[1], x_ids=ids)
    codes = torch.cat([picture, text])
    return loss + 0.1 * (1 - codes.abs()).square().mean() + 0.1 * codes.mean(0).square().mean()


def draw_weights(data: EmojiSet, rows: np.ndarray, tone_weight: float) -> np.ndarray:
    """Chance of each row: the 2,030 skin tones would drown the rest, and so would concepts with many variants."""
    weight = np.where(data.toned[rows], tone_weight, 1.0)
    weight = weight / np.sqrt(np.bincount(data.roots)[data.roots[rows]])
    return weight / weight.sum()


def train(
    data: EmojiSet,
    rows: np.ndarray,
    recipe: Recipe,
    check: Callable[[DualEncoder], float] | None = None,
    report: Callable[[float, float], None] = lambda fraction, loss: None,
) -> tuple[DualEncoder, Curve]:
    """Trains on ``rows`` of the data.

    Args:
        check: called now and then with the model in evaluation mode; its number goes into the curve and nowhere else.
        report: called after each step with the fraction done and the smoothed loss.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = DualEncoder(len(data.group_names)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The bag's weights decay too: what few names use should fade, so that new names rest on what many use.
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.rate, (0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    pictures = to_planes(data.images)
    ids, groups = torch.from_numpy(data.pictures), torch.from_numpy(data.groups)
    tokens = tokenize([name for language in LANGUAGES for name in data.names[language]])
    weights = draw_weights(data, rows, recipe.tone_weight)
    batch = min(recipe.batch, len(rows))

    curve, smooth, start, fraction = Curve(), float("nan"), time.perf_counter(), 0.0
    model.train()
    for step in range(1, recipe.steps + 1):
        # The clock only has a say where the machine is too slow for all steps; elsewhere the seed decides it all.
        fraction = max(step / (recipe.steps + 1), (time.perf_counter() - start) / recipe.seconds)
        if fraction >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1, fraction / 0.05 + 0.01) * (1 + math.cos(math.pi * fraction)) / 2
        drawn = torch.from_numpy(rng.choice(rows, batch, replace=False, p=weights))
        loss = batch_loss(model, pictures[drawn], tokens, drawn, len(data), ids[drawn], groups[drawn], recipe)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        smooth = loss.item() if step == 1 else 0.95 * smooth + 0.05 * loss.item()
        curve.steps.append(step)
        curve.losses.append(smooth)
        if check is not None and (step % max(1, recipe.steps // recipe.checks) == 0):
            model.eval()
            curve.check_steps.append(step)
            curve.checks.append(check(model))
            model.train()
        report(fraction, smooth)
    curve.seconds = time.perf_counter() - start
    return model.eval(), curve


def batch_loss(
    model: DualEncoder,
    pictures: Tensor,
    tokens: Tokens,
    rows: Tensor,
    stride: int,
    ids: Tensor,
    groups: Tensor,
    recipe: Recipe,
) -> Tensor:
    """Pictures against their names in each language, in the float space and as relaxed codes, and the group of both.

    ``tokens`` hold the names of all rows, language after language, ``stride`` rows each.
    """
    picture_raw = model.picture_tower(vary(pictures))
    text_raw = model.text_tower(tokens[torch.cat([rows + i * stride for i in range(len(LANGUAGES))])])
    picture, texts = F.normalize(picture_raw, dim=1), F.normalize(text_raw, dim=1).chunk(len(LANGUAGES))
    scale = model.log_scale.exp().clamp(max=100)
    loss = F.cross_entropy(model.group(picture_raw), groups)
    loss = recipe.group_weight * (loss + F.cross_entropy(model.group(text_raw), groups.repeat(len(LANGUAGES))))
    code = model.bits(picture)
    for text in texts:
        # Equal pictures are not called unlike: all of an id are positive.
        pair = multi_positive_info_nce(picture, text, scale, x_ids=ids)
        loss = loss + (pair + recipe.hash_weight * hash_loss(code, model.bits(text), ids)) / len(texts)
    return loss
