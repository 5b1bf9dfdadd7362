"""The public calls of DAMSM, AttnGAN's matching of words and regions."""

from typing import Any

import torch
from torch import Tensor

from xmkern._functional.similarities import autocast
from xmkern.ops.damsm import word_region_cosines

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}


def damsm_scores(
    words: Tensor,
    regions: Tensor,
    lengths: Tensor,
    gamma1: float = 5.0,
    gamma2: float = 5.0,
    *,
    backend: str = "auto",
) -> Tensor:
    """How well each caption matches each image by words and regions (Xu et al., 2018, "AttnGAN", equations 7 to 10).

    Of a caption's words w and an image's regions v: each region is shared out among the words, p = softmax over words
    of <w, v>; each word attends to regions, a = softmax over regions of gamma1 p; its context is c = sum of a v; and
    the score is log sum over words of exp(gamma2 cos(c, w)). As in the authors' code, the product of norms under the
    cosine is at least 1e-8. No matrix of words and regions is formed: beside the inputs and their gradients, memory
    grows with N M T. Under autocast, words and regions are cast; softmaxes, cosines and scores are float32 (float64 for
    float64).

    Args:
        words: [N, T, D]: T words of each of N captions. (The authors' code has them as [N, D, T].)
        regions: [M, R, D]: R regions of each of M images. (The authors' code has them as [M, D, 17, 17].)
        lengths: [N], integers: how many words of each caption count; the others are padding. More than T is T.
        gamma1: how sharply a word attends to regions. The paper has 5, the authors' settings for CUB and COCO 4.
        gamma2: how much the best words of a caption count.

    Returns:
        [N, M]. A caption of no words has -inf, and zero gradients. To retrieve captions by image, or for R-precision,
        rank a column; the authors' ``similarities`` are the transpose.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    _check(words, regions, lengths)
    words, regions = autocast(words), autocast(regions)
    if words.dtype not in _DTYPES or words.dtype != regions.dtype:
        raise TypeError(
            "words and regions must be of one dtype, float32, bfloat16, float16 or float64, "
            f"not {words.dtype} and {regions.dtype}"
        )
    if isinstance(gamma1, Tensor):
        raise TypeError("gamma1 must be a number, not a tensor, which would get no gradient")
    cosines = word_region_cosines(words, regions, lengths, float(gamma1), backend)
    padding = torch.arange(words.shape[1], device=words.device) >= lengths[:, None]
    return (gamma2 * cosines).masked_fill(padding[:, None], -torch.inf).logsumexp(2)


def damsm_loss(
    words: Tensor,
    regions: Tensor,
    lengths: Tensor,
    ids: Tensor | None = None,
    gamma1: float = 5.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The word-level DAMSM loss of a batch of captions and their images (Xu et al., 2018, equations 11 to 13).

    With z = gamma3 :func:`damsm_scores`, the cross entropy of finding the caption of each image among the captions, and
    of finding the image of each caption among the images: AttnGAN's ``w_loss0`` and ``w_loss1``, which it adds up.

    Args:
        words: [B, T, D]: the words of each caption.
        regions: [B, R, D]: the regions of each image; image b belongs to caption b.
        lengths: [B], integers: how many words of each caption count. A caption of no words and its image take no part:
            the means are over the others.
        ids: [B], integers: classes. Pairs of a caption and another's image of the same class count for nothing.
        gamma1, gamma2: see :func:`damsm_scores`.
        gamma3: the inverse temperature of the cross entropies.

    Returns:
        Two scalars, float32 (float64 for float64): the loss of images finding captions, and of captions finding images.
    """
    scores = damsm_scores(words, regions, lengths, gamma1, gamma2, backend=backend)
    B, M = scores.shape
    if B != M:
        raise ValueError(f"regions must be of as many images as there are captions, {B}, not {M}")
    logits = gamma3 * scores
    if ids is not None:
        if not isinstance(ids, Tensor) or ids.shape != (B,):
            raise ValueError(f"ids must be a tensor [B] with B = {B}, not {_told(ids)}")
        same = (ids[:, None] == ids) & ~torch.eye(B, dtype=torch.bool, device=ids.device)
        logits = logits.masked_fill(same, -torch.inf)
    empty = lengths <= 0
    logits = logits.masked_fill(empty, -torch.inf)
    count = (~empty).sum().clamp(min=1)

    def cross_entropy(rows: Tensor) -> Tensor:
        own = rows.masked_fill(empty[:, None], 0).log_softmax(1).diagonal()
        return -own.masked_fill(empty, 0).sum() / count

    return cross_entropy(logits.mT), cross_entropy(logits)


def _check(words: Any, regions: Any, lengths: Any) -> None:
    for name, x, axes in (("words", words, "[N, T, D]"), ("regions", regions, "[M, R, D]")):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
        if x.dim() != 3:
            raise ValueError(f"{name} must have three axes, {axes}, not shape {list(x.shape)}")
    N, _, D = words.shape
    if D == 0:
        raise ValueError("words must have D of at least 1, not 0")
    if regions.shape[2] != D:
        raise ValueError(f"regions must have the axes [M, R, D] with D = {D} as words has, not {list(regions.shape)}")
    if not isinstance(lengths, Tensor) or lengths.shape != (N,):
        raise ValueError(f"lengths must be a tensor [N] with N = {N}, not {_told(lengths)}")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be of integers, not {lengths.dtype}")
    for name, x in (("regions", regions), ("lengths", lengths)):
        if x.device != words.device:
            raise ValueError(f"{name} must be on {words.device} as words is, not on {x.device}")


def _told(x: Any) -> str:
    return f"shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
