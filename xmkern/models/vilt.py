"""ViLT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.models.parts.embeddings import PatchEmbedding, WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.words import AnswerHead, Pooler, WordHead, lengths, mask_words, masked_word_loss
from xmkern.models.registry import register


@dataclass(frozen=True)
class ViltConfig:
    """ViLT-B/32; ``answers``: of the question answering head, 0 for none."""

    size: int = 384
    patch: int = 32
    vocabulary: int = 30522
    length: int = 40
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.0
    answers: int = 0


class ViltOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``P`` patches and the class token before them, ``E`` the embedding.

    Attributes:
        words: [B, T, E].
        patches: [B, P, E].
        pooled: [B, E], of the first word.
    """

    words: Tensor
    patches: Tensor
    pooled: Tensor


@register(
    section="C",
    paper="Kim et al., ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision, ICML 2021",
    tiny=ViltConfig(64, 8, 2048, 16, 128, 3, 4, 512, 0.1, 256),
    full=ViltConfig(),
    kernels=("attention",),
    parity="transformers.ViltForMaskedLM",
    parameters=112_217_658,
)
class Vilt(nn.Module):
    """One transformer reads raw patches and words: there is no visual encoder.

    Pre-norm as in ViT, whose weights it began with. Trained by whole words that are masked and by pairs that do not
    belong together, or by answers to questions.

    Axes: ``B`` batch, ``T`` words, ``E`` the embedding, ``V`` vocabulary, ``A`` answers.
    """

    reference_names = (
        (r"^vilt\.embeddings\.text_embeddings\.word_embeddings", "words.word"),
        (r"^vilt\.embeddings\.text_embeddings\.position_embeddings", "words.place"),
        (r"^vilt\.embeddings\.text_embeddings\.token_type_embeddings", "words.segment"),
        (r"^vilt\.embeddings\.text_embeddings\.LayerNorm", "words.norm"),
        (r"^vilt\.embeddings\.cls_token", "patches.class_token"),
        (r"^vilt\.embeddings\.position_embeddings", "patches.place"),
        (r"^vilt\.embeddings\.patch_embeddings\.projection", "patches.patch"),
        (r"^vilt\.embeddings\.token_type_embeddings", "modality"),
        (r"^vilt\.encoder\.layer\.(\d+)\.", r"encoder.blocks.\1."),
        (r"attention\.attention\.(q|k|v)(uery|ey|alue)", r"attention.\1"),
        (r"attention\.output\.dense", "attention.out"),
        (r"layernorm_before", "norms.0"),
        (r"layernorm_after", "norms.1"),
        (r"intermediate\.dense", "feed_forward.up"),
        (r"\.output\.dense", ".feed_forward.down"),
        (r"^vilt\.layernorm", "encoder.norm"),
        (r"^vilt\.pooler", "pooler"),
        (r"^mlm_score\.transform\.dense", "word_head.transform"),
        (r"^mlm_score\.transform\.LayerNorm", "word_head.norm"),
        (r"^mlm_score\.decoder", "word_head.word"),
    )
    reference_lacks = ("match_head", "answer_head")

    def __init__(self, config: ViltConfig) -> None:
        super().__init__()
        self.config = c = config
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.patches = PatchEmbedding(c.size, c.patch, c.dim)
        self.modality = nn.Embedding(2, c.dim)
        self.encoder = Transformer(c.dim, c.depth, c.heads, hidden=c.hidden, dropout=c.dropout, eps=1e-12)
        self.pooler = Pooler(c.dim)
        self.word_head = WordHead(c.dim, self.words.word)
        self.match_head = nn.Linear(c.dim, 2)
        self.answer_head = AnswerHead(c.dim, c.answers) if c.answers else None

    def forward(self, pictures: Tensor, words: Tensor) -> ViltOutput:
        """[B, 3, H, W] and int64 [B, T]"""
        text = self.words(words) + self.modality.weight[0]
        patches = self.patches(pictures) + self.modality.weight[1]
        # The patches stand first, so that padding is all at the end.
        count = patches.shape[1]
        x = self.encoder(torch.cat([patches, text], 1), mask=masks.key_lengths(lengths(words) + count))
        patches, text = x[:, :count], x[:, count:]
        return ViltOutput(text, patches, self.pooler(text))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of ``answers`` [B] where there are any; else of masked words, and of pairs of which half do not match.

        Besides: ``pictures`` [B, 3, H, W], ``words`` int64 [B, T].
        """
        pictures, words = batch["pictures"], batch["words"]
        if "answers" in batch:
            return F.cross_entropy(self.answer(pictures, words), batch["answers"])
        hidden = mask_words(words, self.config.vocabulary)
        loss = masked_word_loss(self.word_head, self(pictures, hidden.words).words, hidden.targets)
        other = torch.arange(len(words), device=words.device) % 2 == 1
        pooled = self(torch.where(other[:, None, None, None], pictures.roll(1, 0), pictures), words).pooled
        return loss + F.cross_entropy(self.match_head(pooled), (~other).long())

    def answer(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and a question, int64 [B, T] -> logits [B, A]

        Raises:
            ValueError: the configuration has no answers.
        """
        if self.answer_head is None:
            raise ValueError("config.answers must be positive for the model to answer")
        return self.answer_head(self(pictures, words).pooled)
