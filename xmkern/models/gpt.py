"""The decoder of GPT-3."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.masks import Mask
from xmkern.models.parts.embeddings import WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.generation import Reader, next_word_loss
from xmkern.models.registry import register
from xmkern.nn import KeyValueCache


@dataclass(frozen=True)
class GptConfig:
    """175 billion parameters; ``band``: how far a banded layer looks back (the paper does not say), 0 for all dense."""

    vocabulary: int = 50257
    length: int = 2048
    dim: int = 12288
    depth: int = 96
    heads: int = 96
    band: int = 256
    dropout: float = 0.0


class GptOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``E`` the embedding, ``V`` vocabulary.

    Attributes:
        hidden: [B, T, E], after the last norm.
        logits: [B, T, V], of the word after each.
    """

    hidden: Tensor
    logits: Tensor


@register(
    section="E",
    paper="Brown et al., Language Models are Few-Shot Learners, NeurIPS 2020",
    tiny=GptConfig(vocabulary=128, length=64, dim=128, depth=4, heads=4, band=24, dropout=0.1),
    full=GptConfig(),
    kernels=("attention",),
    parity="transformers.GPT2Model",
    parameters=175_000_000_000,
)
class Gpt(nn.Module):
    """A causal decoder in which dense layers and layers that look back a little way take turns.

    Axes: ``B`` batch, ``T`` words, ``V`` vocabulary.
    """

    reference_names = (
        (r"^wte", "words.word"),
        (r"^wpe", "words.place"),
        (r"^h\.", "decoder.blocks."),
        (r"\.ln_1", ".norms.0"),
        (r"\.ln_2", ".norms.1"),
        (r"attn\.c_attn", "attention.qkv"),
        (r"attn\.c_proj", "attention.out"),
        (r"mlp\.c_fc", "feed_forward.up"),
        (r"mlp\.c_proj", "feed_forward.down"),
        (r"^ln_f", "decoder.norm"),
    )
    reference_transposed = r"(attn|mlp)\.c_\w+\.weight$"

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = c = config
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, dropout=c.dropout)
        self.decoder = Transformer(c.dim, c.depth, c.heads, activation="gelu_tanh", dropout=c.dropout)

    def masks(self, start: int = 0) -> list[Mask]:
        """Of each layer, where the first query stands at place ``start`` among the keys."""
        dense = masks.causal(start)
        banded = masks.band(self.config.band - start, start) if self.config.band else dense
        return [banded if layer % 2 else dense for layer in range(self.config.depth)]

    def forward(self, words: Tensor) -> GptOutput:
        """int64 [B, T]"""
        return self._read(words, None)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of each next word of ``words`` int64 [B, T]."""
        return next_word_loss(self(batch["words"]).logits, batch["words"])

    def reader(self) -> Reader:
        """What stands before a sentence, for :mod:`xmkern.models.parts.generation`."""

        def read(words: Tensor, state: dict[str, Any]) -> Tensor:
            return self._read(words, state["caches"]).logits[:, -1]

        return Reader(read, {"caches": [KeyValueCache() for _ in range(self.config.depth)]})

    def _read(self, words: Tensor, caches: list[KeyValueCache] | None) -> GptOutput:
        start = caches[0].length if caches else 0
        x = self.words(words, start=start)
        x = self.decoder(x, mask=self.masks(start), caches=caches)
        return GptOutput(x, F.linear(x, self.words.word.weight))
