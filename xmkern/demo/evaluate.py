"""What the trained towers are worth on concepts that they have not seen, beside chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkern.data.emoji import EmojiSet
from xmkern.demo.model import BITS, DualEncoder, normalise
from xmkern.demo.text import tokenize
from xmkern.demo.train import LANGUAGES, to_planes
from xmkern.functional import hamming_distance, pack_bits
from xmkern.hamming import BinaryIndex
from xmkern.metrics import mean_average_precision, recall_at_k

KS = (1, 5, 10)
NAMES = {"en": "English", "zh": "Chinese"}


@dataclass(frozen=True)
class Row:
    """One line of the table: recall in each of ``KS`` and mAP, all in 0..1."""

    rows: str  # "without skin tones" or "all"
    size: int  # rows of the gallery, each also a query
    query: str  # "English to picture", "picture to Chinese", ..., or "any"
    code: str  # "float", "64 bits" or "chance"
    recall: dict[int, float]
    map: float


@torch.no_grad()
def embed_pictures(model: DualEncoder, images: np.ndarray, batch: int = 256) -> Tensor:
    """uint8 ``[N, H, W, 3]`` to unit vectors ``[N, E]``."""
    parts = to_planes(images).split(batch)
    return torch.cat([model.picture(normalise(part)) for part in parts])


@torch.no_grad()
def embed_texts(model: DualEncoder, names: list[str]) -> Tensor:
    """Names to unit vectors ``[N, E]``."""
    return model.text(tokenize(names))


@torch.no_grad()
def codes_of(model: DualEncoder, embedding: Tensor) -> Tensor:
    """Unit vectors ``[N, E]`` to packed codes uint8 ``[N, K / 8]``."""
    return pack_bits(model.bits(embedding))


def chance_recall(same: np.ndarray, ks: tuple[int, ...] = KS) -> dict[int, float]:
    """Recall of a random ranking, from which items are right for each query, bool ``[Q, N]``.

    A query with ``r`` right answers of ``N`` misses all of them with ``C(N - r, k) / C(N, k)``.
    """
    right, size = same.sum(1).astype(np.float64), same.shape[1]
    missed, result, place = np.ones(len(right)), {}, 0
    for k in sorted(ks):
        while place < k:
            missed = missed * np.clip((size - right - place) / max(size - place, 1), 0, None)
            place += 1
        result[k] = float(1 - missed.mean())
    return result


def search_float(queries: Tensor, gallery: Tensor, k: int) -> Tensor:
    """The k most similar of ``gallery [N, E]`` for each of ``queries [Q, E]``: int64 ``[Q, k]``."""
    return (queries @ gallery.T).topk(min(k, len(gallery)), dim=1).indices


def search_bits(queries: Tensor, gallery: Tensor, k: int) -> Tensor:
    """The same by an index of packed codes uint8 ``[N, K / 8]``."""
    index = BinaryIndex(BITS)
    index.add(gallery)
    return torch.as_tensor(index.search(queries, min(k, len(gallery)))[1])


def evaluate(model: DualEncoder, data: EmojiSet, rows: np.ndarray) -> list[Row]:
    """The whole table for the gallery made of ``rows``, with and without its skin tones."""
    pictures = embed_pictures(model, data.images[rows])
    texts = {language: embed_texts(model, [data.names[language][i] for i in rows]) for language in LANGUAGES}
    table = []
    for label, kept in (("without skin tones", ~data.toned[rows]), ("all", np.ones(len(rows), bool))):
        ids, groups = data.pictures[rows][kept], data.groups[rows][kept]
        related = groups[:, None] == groups[None, :]
        depth = min(max(KS), len(ids))
        ks = tuple(k for k in KS if k <= depth)
        for language, text in texts.items():
            sides = (
                (f"{NAMES[language]} to picture", text[kept], pictures[kept]),
                (f"picture to {NAMES[language]}", pictures[kept], text[kept]),
            )
            for query, queries, gallery in sides:
                recall = recall_at_k(search_float(queries, gallery, depth), ids, ids, ks=ks)
                quality = mean_average_precision(-(queries @ gallery.T), related)
                table.append(Row(label, len(ids), query, "float", recall, quality))
                query_codes, gallery_codes = codes_of(model, queries), codes_of(model, gallery)
                recall = recall_at_k(search_bits(query_codes, gallery_codes, depth), ids, ids, ks=ks)
                distances = hamming_distance(query_codes, gallery_codes)
                quality = mean_average_precision(distances, related, ties="expected")
                table.append(Row(label, len(ids), query, f"{BITS} bits", recall, quality))
        # A random ranking is one big tie.
        chance = mean_average_precision(np.zeros(related.shape), related, ties="expected")
        table.append(Row(label, len(ids), "any", "chance", chance_recall(ids[:, None] == ids[None, :], ks), chance))
    return table


def quick_recall(model: DualEncoder, data: EmojiSet, rows: np.ndarray) -> float:
    """Recall@10, English text to picture, on ``rows``: one number for the learning curve."""
    with torch.no_grad():
        found = search_float(
            embed_texts(model, [data.names["en"][i] for i in rows]), embed_pictures(model, data.images[rows]), 10
        )
    return recall_at_k(found, data.pictures[rows], data.pictures[rows], ks=(found.shape[1],))[found.shape[1]]
