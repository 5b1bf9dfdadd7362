"""GLIDE."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xmkern.data.words import PAD
from xmkern.diffusion import sample
from xmkern.functional import q_sample
from xmkern.models.parts.diffusion import Guided, NoiseOutput, hybrid_loss, learned_range, noise_of_velocity
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.unet import DIFFUSERS_NAMES, UNet
from xmkern.models.registry import register


@dataclass(frozen=True)
class GlideConfig:
    """The base model of the public weights, which draws 64 pixels; ``unconditional``, ``erased``: how often words are
    left out in training, and how often part of the picture is known; ``velocity``: as in DDPM."""

    size: int = 64
    width: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    depth: int = 3
    attention: tuple[int, ...] = (1, 2, 3)
    head_dim: int = 64
    dropout: float = 0.1
    patch: int = 1
    groups: int = 32
    vocabulary: int = 50257
    length: int = 128
    text_dim: int = 512
    text_depth: int = 16
    text_heads: int = 8
    times: int = 1000
    schedule: str = "squaredcos_cap_v2"
    velocity: bool = False
    unconditional: float = 0.2
    erased: float = 0.5


@register(
    section="G",
    paper="Nichol et al., GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion "
    "Models, ICML 2022",
    tiny=GlideConfig(
        32, 32, (1, 2, 2), 1, (1,), 32, 0.0, 2, 8, 2048, 16, 128, 2, 4, velocity=True, unconditional=0.1, erased=0.2
    ),
    full=GlideConfig(),
    kernels=("attention", "cross_attention", "q_sample"),
    parity="diffusers.UNet2DConditionModel",
    parameters=385_030_726,
)
class Glide(nn.Module):
    """Places of a U-Net attend to each other and to the words in one softmax; guidance needs no classifier.

    A transformer reads the words; its last token joins the time's embedding. Trained now and then without words, so
    that a sample can be steered away from what has none; and now and then with part of the picture known, so that it
    paints what is missing.

    Axes: ``B`` batch, ``T`` words.
    """

    # What reads the words is not diffusers'.
    reference_names = DIFFUSERS_NAMES
    reference_lacks = ("words", "places", "padding", "text")

    def __init__(self, config: GlideConfig) -> None:
        super().__init__()
        self.config = c = config
        # Besides the noisy picture: what is known of it, and where.
        self.unet = UNet(
            7, 6, c.width, c.multipliers, c.depth, c.attention, head_dim=c.head_dim, context_dim=c.text_dim,
            scale_shift=True, residual_resampling=True, dropout=c.dropout, patch=c.patch, groups=c.groups,
        )  # fmt: skip
        self.words = nn.Embedding(c.vocabulary, c.text_dim)
        self.places = nn.Parameter(torch.randn(c.length, c.text_dim) * 0.01)
        self.padding = nn.Parameter(torch.randn(c.length, c.text_dim) * 0.01)
        self.text = Transformer(c.text_dim, c.text_depth, c.text_heads)
        self.text_out = nn.Linear(c.text_dim, 4 * c.width)
        nn.init.normal_(self.words.weight, std=0.02)
        self.scheduler = learned_range(c.times, c.schedule)

    def encode_text(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, T] -> tokens [B, T, E], padding among them, and what joins the time, [B, 4 width]"""
        length = words.shape[1]
        x = torch.where((words == PAD)[..., None], self.padding[:length], self.words(words) + self.places[:length])
        x = self.text(x)
        return x, self.text_out(x[:, -1])

    def forward(
        self, noisy: Tensor, t: Tensor, words: Tensor, known: Tensor | None = None, mask: Tensor | None = None
    ) -> NoiseOutput:
        """Args:
        noisy: [B, 3, H, W].
        t: [B], or one for all.
        words: int64 [B, T]; all of them padding where there are none.
        known: [B, 3, H, W], a picture to be completed.
        mask: [B, 1, H, W], 1 where it is known.
        """
        return NoiseOutput(*self._predict(noisy, t, self.encode_text(words), known, mask).chunk(2, 1))

    def _predict(
        self, noisy: Tensor, t: Tensor, text: tuple[Tensor, Tensor], known: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        if known is None or mask is None:
            known, mask = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
        output = self.unet(torch.cat([noisy, known * mask, mask], 1), t, *text)
        return noise_of_velocity(output, noisy, t, self.scheduler.alphas_cumprod) if self.config.velocity else output

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of ``pictures`` [B, 3, H, W] and ``words`` int64 [B, T]."""
        pictures, words, c = batch["pictures"], batch["words"], self.config
        count, device = len(pictures), pictures.device
        words = words.masked_fill(torch.rand(count, 1, device=device) < c.unconditional, PAD)
        mask = hidden_square(pictures) * (torch.rand(count, 1, 1, 1, device=device) < c.erased)
        t = torch.randint(c.times, (count,), device=device)
        noise, table = torch.randn_like(pictures), self.scheduler.alphas_cumprod.to(device)
        noisy, _ = q_sample(pictures, t, table, noise)
        output = self._predict(noisy, t, self.encode_text(words), pictures, mask)
        return hybrid_loss(output, noisy, pictures, noise, t, table)

    def draw(
        self,
        words: Tensor,
        seed: int = 0,
        *,
        guidance: float = 3.0,
        steps: int = 25,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        log_probability: Callable[[Tensor, Tensor], Tensor] | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Args:
            words: int64 [N, T].
            seed: of all noise.
            guidance: without a classifier; 1 is none.
            steps: how many times of those of training.
            known, mask: see :meth:`forward`, of N pictures.
            log_probability, scale: of guidance by another model besides, such as CLIP trained on noisy pictures: see
                :class:`xmkern.models.parts.diffusion.Guided`.

        Returns:
            [N, 3, H, W], -1 to 1.
        """
        # Words do not change from step to step: they are read once.
        text = self.encode_text(torch.cat([torch.full_like(words, PAD), words]))
        both = [None if x is None else torch.cat([x, x]) for x in (known, mask)]

        def network(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            return self._predict(x, t, text, *both)

        shape = (len(words), 3, self.config.size, self.config.size)
        settings: dict[str, Any] = {"steps": steps, "seed": seed, "device": next(self.parameters()).device}
        if log_probability is not None:
            network = guided = Guided(network, self.scheduler, log_probability, scale)  # type: ignore[assignment]
            settings["callback"] = guided.shift
        return sample(network, self.scheduler, shape, words, guidance, **settings)


def hidden_square(pictures: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]: 0 in a square of random side and place, 1 elsewhere."""
    B, _, H, W = pictures.shape
    side, top, left = torch.rand(3, B, 1, device=pictures.device)
    side = 0.25 + 0.5 * side
    rows, columns = (torch.arange(n, device=pictures.device) / n for n in (H, W))
    in_rows = (rows >= top * (1 - side)) & (rows < top * (1 - side) + side)
    in_columns = (columns >= left * (1 - side)) & (columns < left * (1 - side) + side)
    return (~(in_rows[:, None, :, None] & in_columns[:, None, None, :])).to(pictures.dtype)
