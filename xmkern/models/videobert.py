"""VideoBERT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.models.parts.embeddings import WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.region_tasks import mismatch
from xmkern.models.parts.words import IGNORED, Pooler, WordHead, lengths, mask_words, masked_word_loss, there
from xmkern.models.registry import register


@dataclass(frozen=True)
class VideoBertConfig:
    """BERT-large; ``codes``: how many visual words there are; ``masked``: the share of the words that is hidden."""

    vocabulary: int = 30522
    codes: int = 20736
    length: int = 512
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    hidden: int = 4096
    dropout: float = 0.1
    masked: float = 0.15


class VideoBertOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``F`` visual words, ``E`` the embedding.

    Attributes:
        words: [B, T, E].
        codes: [B, F, E].
        pooled: [B, E], of the first word.
    """

    words: Tensor
    codes: Tensor
    pooled: Tensor


@register(
    section="C",
    paper="Sun et al., VideoBERT: A Joint Model for Video and Language Representation Learning, ICCV 2019",
    tiny=VideoBertConfig(2048, 144, 32, 128, 3, 4, 512, 0.1, 0.4),
    full=VideoBertConfig(),
    kernels=("attention",),
    parameters=357_480_508,  # of transformers.BertForPreTraining, large, with 20,736 words more
)
class VideoBert(nn.Module):
    """A video is words too: the k-means centres of its features share BERT's table with the words of the text.

    One BERT completes masked words of both kinds, and tells whether video and sentence belong together. In training it
    sees either alone as well as both, so that it can draw video from text and text from video.

    Axes: ``B`` batch, ``T`` words, ``F`` visual words, ``E`` the embedding, ``V`` vocabulary of both kinds.
    """

    def __init__(self, config: VideoBertConfig) -> None:
        super().__init__()
        self.config = c = config
        every = c.vocabulary + c.codes
        self.words = WordEmbedding(every, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.encoder = Transformer(
            c.dim, c.depth, c.heads, order="post", hidden=c.hidden, dropout=c.dropout, attention_dropout=c.dropout,
            eps=1e-12,
        )  # fmt: skip
        self.pooler = Pooler(c.dim)
        self.word_head = WordHead(c.dim, self.words.word)
        self.match_head = nn.Linear(c.dim, 2)

    def forward(self, codes: Tensor, words: Tensor, shown: Tensor | None = None) -> VideoBertOutput:
        """int64 [B, F], of 0 to ``config.codes`` - 1, and int64 [B, T]; ``shown``, bool [B, T + F]: by default all."""
        return self._encode(torch.cat([words, codes + self.config.vocabulary], 1), words.shape[1], shown)

    def _encode(self, tokens: Tensor, count: int, shown: Tensor | None = None) -> VideoBertOutput:
        """Of int64 [B, T + F] with T = ``count``, of one vocabulary."""
        shown = there(tokens) if shown is None else shown & there(tokens)
        # The video's places go on where each sentence ends, whatever the longest one of the batch is.
        text = self.words(tokens[:, :count])
        video = self.words(tokens[:, count:], segment=1, start=lengths(tokens[:, :count]))
        x = self.encoder(torch.cat([text, video], 1), mask=masks.dense(shown[:, None, None]))
        return VideoBertOutput(x[:, :count], x[:, count:], self.pooler(x))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of ``codes`` int64 [B, F] and ``words`` int64 [B, T]: of four samples two show both, one each alone."""
        codes, own = batch["codes"], batch["words"]
        count = own.shape[1]
        words, match = mismatch(own)
        kind = torch.arange(len(words), device=words.device) // 2 % 4
        alone = kind >= 2
        # Whoever shows one side keeps the first word, which stands for the whole.
        text, video = (kind != 3)[:, None].expand(-1, count).clone(), (kind != 2)[:, None].expand(-1, codes.shape[1])
        text[:, 0] = True
        shown = torch.cat([text, video], 1)
        tokens = torch.cat([words, codes + self.config.vocabulary], 1)
        c = self.config
        hidden = mask_words(tokens.masked_fill(~shown, 0), c.vocabulary + c.codes, c.masked)
        out = self._encode(hidden.words, count, shown)
        targets = hidden.targets.masked_fill(~shown | ((match == 0) & ~alone)[:, None], IGNORED)
        loss = masked_word_loss(self.word_head, torch.cat([out.words, out.codes], 1), targets)
        return loss + F.cross_entropy(self.match_head(out.pooled), match.masked_fill(alone, IGNORED))

    def fill(self, codes: Tensor, words: Tensor) -> Tensor:
        """int64 [B, F] and [B, T], some of them MASK -> logits of words [B, T, ``config.vocabulary``]"""
        return self.word_head(self(codes, words).words)[..., : self.config.vocabulary]
