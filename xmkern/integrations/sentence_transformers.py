"""sentence-transformers on our kernels: its loss of negatives in the batch, and late interaction."""

from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss as _Theirs
from sentence_transformers.util import cos_sim, dot_score
from torch import Tensor

from xmkern.functional import info_nce, max_similarity

__all__ = ["MultipleNegativesRankingLoss", "maxsim", "mean_maxsim"]

_FORWARD, _BOTH = ("query_to_doc",), {"query_to_doc", "doc_to_query"}


class MultipleNegativesRankingLoss(_Theirs):
    """sentence-transformers' ``MultipleNegativesRankingLoss`` (6.2.0), its scores never made: memory O(B), not O(B^2).

    Its arguments, but for what ours do not compute:

    - ``similarity_fct`` is ``cos_sim`` or ``dot_score``;
    - ``directions`` is ``("query_to_doc",)``, or that and ``"doc_to_query"``, with either ``partition_mode``;
    - ``gather_across_devices`` is False (see :func:`xmkern.distributed.info_nce`), and ``hardness_mode`` None.

    Raises:
        ValueError: another was asked for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.similarity_fct not in (cos_sim, dot_score):
            raise ValueError(f"similarity_fct must be cos_sim or dot_score, not {self.similarity_fct!r}")
        if self.directions != _FORWARD and set(self.directions) != _BOTH:
            raise ValueError(f"directions must be query_to_doc, alone or with doc_to_query, not {self.directions}")
        if self.gather_across_devices:
            raise ValueError("gather_across_devices must be False; xmkern.distributed.info_nce spreads a batch")
        if self.hardness_mode is not None:
            raise ValueError(f"hardness_mode must be None, not {self.hardness_mode!r}")

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """embeddings: the queries [B, D], their documents [B, D], and any number of negatives [B, D] each."""
        if len(embeddings) < 2:
            raise ValueError(f"embeddings must be at least two, of queries and documents, not {len(embeddings)}")
        queries, documents, *more = embeddings
        negatives = torch.cat(more) if more else None
        options: Any = {"negatives": negatives, "normalize": self.similarity_fct is cos_sim}
        if len(self.directions) == 1:
            return info_nce(queries, documents, self.scale, symmetric=False, **options)
        if self.partition_mode == "per_direction":
            return info_nce(queries, documents, self.scale, **options)
        losses, rows, columns = info_nce(queries, documents, self.scale, reduction="none", return_lse=True, **options)
        # One softmax over both: losses are (rows + columns) / 2 less the positive.
        return (losses - (rows + columns) / 2 + torch.logaddexp(rows, columns)).mean()


def maxsim(a: Any, b: Any, a_mask: Any = None, b_mask: Any = None, length_normalize: bool = False) -> Tensor:
    """``sentence_transformers.util.maxsim`` without the similarities of all tokens; differentiable in O(B N T) bytes.

    Args:
        a: the queries' tokens: [B, R, D], or a list of [R_i, D] each, or one query's [R, D].
        b: the documents' tokens: [N, T, D], or a list of [T_i, D] each, or one document's [T, D].
        a_mask, b_mask: [B, R] and [N, T], True or 1 where there is a token.
        length_normalize: whether to take the mean over a query's tokens instead of the sum.

    Returns:
        float32 [B, N]. A document without any token scores 0 (in sentence-transformers, about -1e9 at once).
    """
    x, x_mask = _padded(a, a_mask)
    y, y_mask = _padded(b, b_mask)
    return max_similarity(x, y, x_mask, y_mask, reduction="mean" if length_normalize else "sum")


def mean_maxsim(a: Any, b: Any, a_mask: Any = None, b_mask: Any = None) -> Tensor:
    """:func:`maxsim` over the number of a query's tokens."""
    return maxsim(a, b, a_mask, b_mask, length_normalize=True)


def _padded(tokens: Any, mask: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(tokens, list):
        if mask is not None:
            raise ValueError("a mask goes with padded tokens, not with a list of samples")
        samples = [torch.as_tensor(each) for each in tokens]
        lengths = torch.tensor([len(each) for each in samples])
        padded = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
        return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).to(padded.device)
    tokens = torch.from_numpy(tokens) if isinstance(tokens, np.ndarray) else tokens
    mask = None if mask is None else torch.as_tensor(mask, device=tokens.device).bool()
    if tokens.dim() == 2:  # of one sample
        return tokens[None], mask[None] if mask is not None and mask.dim() == 1 else mask
    return tokens, mask
