"""VL-T5."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.data.words import BEGIN, END
from xmkern.models.parts.generation import Reader, next_word_loss
from xmkern.models.parts.regions import FEATURES, grid_regions
from xmkern.models.parts.t5 import RmsNorm, T5Stack
from xmkern.models.parts.words import lengths
from xmkern.models.registry import register
from xmkern.nn import KeyValueCache


@dataclass(frozen=True)
class VlT5Config:
    """T5-base; ``features``: of a region, beside the five numbers of its box; ``regions``: at most."""

    vocabulary: int = 32200
    dim: int = 768
    depth: int = 12
    heads: int = 12
    head_dim: int = 64
    hidden: int = 3072
    features: int = 2048
    regions: int = 36
    dropout: float = 0.1


class VlT5Output(NamedTuple):
    """Axes: ``B`` batch, ``S`` tokens of the encoder, words first, ``T`` words of the answer, ``V`` vocabulary.

    Attributes:
        encoded: [B, S, E].
        decoded: [B, T, E].
        logits: [B, T, V], of the word after each.
    """

    encoded: Tensor
    decoded: Tensor
    logits: Tensor


@register(
    section="E",
    paper="Cho et al., Unifying Vision-and-Language Tasks via Text Generation, ICML 2021",
    tiny=VlT5Config(2048, 128, 2, 4, 32, 512, FEATURES, 17),
    full=VlT5Config(),
    kernels=("attention", "cross_attention", "add_norm"),
    parity="transformers.T5Model",
    parameters=224_000_000,
)
class VlT5(nn.Module):
    """Every task is text in, text out: T5 whose encoder reads regions after the words.

    Scores between words have T5's relative bias; those with a region have none. A region is its features, its box and
    its number, which is one of the last words of the vocabulary.

    Axes: ``B`` batch, ``T`` words, ``R`` regions, ``F`` their features, ``E`` the embedding.
    """

    reference_names = (
        (r"^(en|de)coder\.embed_tokens.*$", ""),
        (r"^shared", "words"),
        (r"^(en|de)coder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias", r"\1coder.bias"),
        (r"final_layer_norm", "norm"),
        (r"^(en|de)coder\.block\.(\d+)\.layer\.", r"\1coder.blocks.\2."),
        (r"0\.SelfAttention\.([qkv])\.", r"attention.\1."),
        (r"0\.SelfAttention\.o\.", "attention.out."),
        (r"1\.EncDecAttention\.q\.", "cross_attention.q."),
        (r"1\.EncDecAttention\.([kv])\.", r"cross_attention.\1."),
        (r"1\.EncDecAttention\.o\.", "cross_attention.out."),
        (r"\d\.DenseReluDense\.wi\.", "feed_forward.up."),
        (r"\d\.DenseReluDense\.wo\.", "feed_forward.down."),
        (r"(\d)\.layer_norm\.", r"norms.\1."),
    )
    reference_lacks = ("feature", "box", "picture")

    def __init__(self, config: VlT5Config) -> None:
        super().__init__()
        self.config = c = config
        self.words = nn.Embedding(c.vocabulary, c.dim)
        self.feature, self.feature_norm = nn.Linear(c.features, c.dim), RmsNorm(c.dim)
        self.box, self.box_norm = nn.Linear(5, c.dim), RmsNorm(c.dim)
        self.picture = nn.Embedding(2, c.dim)  # the first or the second that is shown
        stack = (c.dim, c.depth, c.heads, c.head_dim, c.hidden, c.dropout)
        self.encoder, self.decoder = T5Stack(*stack), T5Stack(*stack, decoder=True)
        self._initialize()

    def _initialize(self) -> None:
        """As T5: with scores that no scale keeps small, queries begin smaller by the root of a head's size."""
        c = self.config
        nn.init.normal_(self.words.weight, std=1.0)
        for table in (self.picture, self.encoder.bias, self.decoder.bias):
            nn.init.normal_(table.weight, std=c.dim**-0.5)
        for name, p in self.named_parameters():
            if name.endswith(("qkv.weight", "q.weight", "kv.0.weight", "up.weight")):
                nn.init.normal_(p, std=c.dim**-0.5)
            elif name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
        with torch.no_grad():
            for stack in (self.encoder, self.decoder):
                for block in stack.blocks:
                    block.attention.qkv.weight[: c.heads * c.head_dim] *= c.head_dim**-0.5
                    if block.cross_attention is not None:
                        block.cross_attention.q.weight.mul_(c.head_dim**-0.5)

    def embed_regions(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[B, R, F] and [B, R, 4] (left, top, right, bottom) -> [B, R, E]"""
        width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        boxes = torch.cat([boxes, (width * height)[..., None]], -1)
        number = self.words.weight[-features.shape[1] :].flip(0)
        shown = self.feature_norm(self.feature(features)) + self.box_norm(self.box(boxes))
        return shown + number + self.picture.weight[0]

    def encode(self, words: Tensor, regions: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, masks.Mask]:
        """int64 [B, T], and features and boxes of R regions -> [B, T + R, E], and which of it can be seen."""
        x, others = self.words(words), 0
        if regions is not None:
            seen = self.embed_regions(*regions)
            x, others = torch.cat([x, seen], 1), seen.shape[1]
        places = torch.arange(x.shape[1], device=x.device)
        mask = masks.dense(((places < lengths(words)[:, None]) | (places >= words.shape[1]))[:, None, None])
        return self.encoder(x, mask=mask, others=others), mask

    def forward(self, words: Tensor, answer: Tensor, regions: tuple[Tensor, Tensor] | None = None) -> VlT5Output:
        """int64 [B, T'] to read and [B, T] to go on with, and the regions of a picture."""
        encoded, mask = self.encode(words, regions)
        contexts = self.decoder.contexts(encoded, mask)
        decoded = self.decoder(self.words(answer), contexts, mask=masks.causal())
        return VlT5Output(encoded, decoded, self._logits(decoded))

    def _logits(self, decoded: Tensor) -> Tensor:
        """The words' own embedding, scaled as in T5 because it is shared."""
        return F.linear(decoded * self.config.dim**-0.5, self.words.weight)

    def _prompt(self, count: int) -> Tensor:
        """What stands for the name of the task, "caption:", as there is but one."""
        return torch.tensor([[BEGIN, END]]).expand(count, -1)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of each next word of ``words`` int64 [B, T], after ``pictures`` [B, 3, H, W]."""
        words, regions = batch["words"], grid_regions(batch["pictures"])
        return next_word_loss(self(self._prompt(len(words)).to(words), words, regions).logits, words)

    def reader(self, pictures: Tensor) -> Reader:
        """What has seen [B, 3, H, W] and stands before the words."""
        encoded, mask = self.encode(self._prompt(len(pictures)).to(pictures.device), grid_regions(pictures))

        def read(words: Tensor, state: dict[str, Any]) -> Tensor:
            mask = masks.causal(state["caches"][0].length)
            x = self.decoder(self.words(words), state["contexts"], mask=mask, caches=state["caches"])
            return self._logits(x[:, -1])

        caches = [KeyValueCache() for _ in range(self.config.depth)]
        return Reader(read, {"contexts": self.decoder.contexts(encoded, mask), "caches": caches})
