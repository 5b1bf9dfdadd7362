"""Arguments of contrastive losses: sizes about the edges of tiles, labels, classes, scales, layouts.

Where a loss jumps, as a margin's gradient does and a greatest rival, similarities are drawn such that they are exact in
every dtype: products of small integers. Where a loss or a gradient would be zero but for rounding, and eager PyTorch's
by luck without, as of a row that has one column, or one that outweighs all others, sizes are larger, or the
log-sum-exps are asked for too.
"""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern.ops.contrastive import Pairs
from xmkern.testing.strategies.layout import Inputs, strided

_EDGES = [1, 15, 16, 17, 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300]
_depths = st.one_of(st.integers(2, 20), st.sampled_from([1, 64, 100, 512, 515]))
_dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
_reductions = st.sampled_from(["none", "mean", "sum"])


_several = st.sampled_from([3, 2, 5, 0, *_EDGES[1:]])


def _sizes(least: int = 0) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(least, 5), st.sampled_from([size for size in _EDGES if size >= least]))


class _Draw:
    """What one example has in common: its dtype, its random numbers, whether gradients are wanted."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.dtype = draw(_dtypes)
        self.graded = draw(st.sampled_from([True, True, True, False]))
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def __call__(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.draw(strategy)

    def rows(self, count: int, depth: int) -> Tensor:
        """[count, depth], of norms about 1"""
        return self._operand(torch.randn(count, depth, generator=self.generator) / depth**0.5)

    def grid(self, count: int, depth: int) -> Tensor:
        """[count, depth] of -2 to 2"""
        return self._operand(torch.randint(-2, 3, (count, depth), generator=self.generator).float())

    def signs(self, count: int, depth: int) -> Tensor:
        """[count, depth] of plus and minus a power of two"""
        size = 2.0 ** self.integers(5, count)[:, None]
        return self._operand(size * (2.0 * self.integers(2, count, depth) - 1))

    def _operand(self, x: Tensor) -> Tensor:
        return strided(self.draw, x.to(self.dtype)).requires_grad_(self.graded)

    def number(self, *values: float) -> float | Tensor:
        value = self.draw(st.sampled_from(values))
        # Without a gradient, which is one sum over all pairs: eager PyTorch's may be exact by luck.
        return value if self.draw(st.booleans()) else torch.tensor(value)

    def logit_scale(self, *sizes: int) -> float | Tensor:
        return self.number(1.0, 14.3, *([100.0] if min(sizes) >= 16 else []))

    def integers(self, most: int, *size: int) -> Tensor:
        return torch.randint(0, most, size, generator=self.generator)

    def labels(self, rows: int, columns: int) -> int | Tensor | None:
        """Of rows that need not be as many as the columns: an offset, or numbers some of which are nobody's."""
        kind = self.draw(st.sampled_from(["offset", "tensor", "some"]))
        if kind == "offset" and rows <= columns:
            return self.draw(st.integers(0, columns - rows))
        labels = self.integers(max(columns, 1), rows)
        return torch.where(self.integers(3, rows) == 0, -100, labels) if kind == "some" or not columns else labels


@st.composite
def info_nce(draw: Callable[..., Any]) -> Inputs:
    """Both directions or one, offsets and left-out rows, queues, smoothed labels."""
    own = _Draw(draw)
    N, D, symmetric = own(_several), own(_depths), own(st.booleans())
    B = N if symmetric else own(_sizes())
    labels: int | Tensor | None = own.labels(B, N)
    if symmetric:
        labels = own(st.sampled_from([None, torch.randperm(B, generator=own.generator)]))
    queues = [own.rows(own(_sizes()), D) if own(st.booleans()) else None for _ in range(2)]
    bias = own(st.sampled_from([None, own.number(-3.0, 0.5)]))
    without_lse = bias is None and B >= 16 and N >= 16
    return {
        "x": own.rows(B, D),
        "y": own.rows(N, D),
        "logit_scale": own.logit_scale(B, N),
        "logit_bias": bias,
        "labels": labels,
        "negatives": tuple(queues) if symmetric else queues[0],
        "label_smoothing": own(st.sampled_from([0.0, 0.0, 0.1])),
        "symmetric": symmetric,
        "reduction": own(_reductions),
        "return_lse": not without_lse or own(st.booleans()),
        "normalize": D > 1 and own(st.booleans()),
    }


@st.composite
def multi_positive_info_nce(draw: Callable[..., Any]) -> Inputs:
    """Classes of many, of one and of none; pairs of a class positive or hidden."""
    own = _Draw(draw)
    same_class = own(st.sampled_from(["positive", "hidden"]))
    reduction, symmetric = own(_reductions), own(st.booleans())
    B, D = own(_several), own(_depths)
    N = B if same_class == "hidden" or (reduction == "none" and symmetric) else own(_several)
    classes = own(st.sampled_from([1, 3, 40, 1000]))
    x_ids = own.integers(classes, B)
    if same_class == "hidden" and B:
        x_ids[0] = classes  # alone
    return {
        "x": own.rows(B, D),
        "y": own.rows(N, D),
        "logit_scale": own.logit_scale(B, N),
        "x_ids": x_ids,
        "y_ids": x_ids if same_class == "hidden" else own.integers(classes, N),
        "same_class": same_class,
        "symmetric": symmetric,
        "reduction": reduction,
        "return_lse": True,
        "normalize": D > 1 and own(st.booleans()),
    }


@st.composite
def mil_nce(draw: Callable[..., Any]) -> Inputs:
    """Candidates in blocks, or by ids."""
    own = _Draw(draw)
    denominator, reduction = own(st.sampled_from(["joint", "rows", "separate"])), own(_reductions)
    B, D, P = own(_sizes(2)), own(_depths), own(st.sampled_from([1, 2, 3, 5]))
    P = 1 if reduction == "none" and denominator == "separate" else P
    ids: Inputs = {}
    if own(st.booleans()):
        names = torch.randperm(B, generator=own.generator)
        ids = {"x_ids": names, "y_ids": own.integers(B + 2, B * P)}
    return {
        "x": own.rows(B, D),
        "y": own.rows(B * P, D),
        "logit_scale": own.logit_scale(B),
        **ids,
        "denominator": denominator,
        "reduction": reduction,
        "normalize": D > 1 and own(st.booleans()),
    }


@st.composite
def sigmoid_contrastive(draw: Callable[..., Any]) -> Inputs:
    """Pairs by labels and by ids."""
    own = _Draw(draw)
    B, N, D = own(_sizes()), own(_sizes()), own(_depths)
    pairs: Inputs = {"labels": own.labels(B, N)}
    if own(st.booleans()):
        pairs = {"x_ids": own.integers(7, B), "y_ids": own.integers(7, N)}
    return {
        "x": own.rows(B, D),
        "y": own.rows(N, D),
        "logit_scale": own.number(1.0, 10.0, 100.0),
        "logit_bias": own(st.sampled_from([None, own.number(-10.0, 0.5)])),
        **pairs,
        "reduction": own(_reductions),
        "normalize": D > 1 and own(st.booleans()),
    }


@st.composite
def distillation(draw: Callable[..., Any]) -> Inputs:
    """Teachers of another depth, that learn or do not."""
    own = _Draw(draw)
    B, D, symmetric, reduction = own(_sizes(2)), own(_depths), own(st.booleans()), own(_reductions)
    N, E = B if symmetric and reduction == "none" else own(_sizes(2)), own(_depths)
    teachers = own.rows(B, E), own.rows(N, E)
    if own(st.booleans()):
        teachers = teachers[0].detach(), teachers[1].detach()
    return {
        "x": own.rows(B, D),
        "y": own.rows(N, D),
        "logit_scale": own.number(1.0, 14.3),
        "teacher_x": teachers[0],
        "teacher_y": teachers[1],
        "teacher_scale": own.number(1.0, 20.0),
        "symmetric": symmetric,
        "reduction": reduction,
        "normalize": min(D, E) > 1 and own(st.booleans()),
    }


@st.composite
def ranking_loss(draw: Callable[..., Any]) -> Inputs:
    """Classes that are no rivals, left-out rows; similarities that are integers, or of float32."""
    own = _Draw(draw)
    B, D, symmetric = own(_sizes()), own(_depths), own(st.booleans())
    N = B if symmetric else own(_sizes(1))
    labels = None if symmetric else own.labels(B, N)
    classes = own(st.sampled_from([None, 5, 1000]))
    normalize = D > 2 and own.dtype == torch.float32 and own(st.booleans())
    operand = own.rows if normalize else own.grid
    return {
        "x": operand(B, D),
        "y": operand(N, D),
        "margin": own(st.sampled_from([0.3, 2.3])),
        "mode": own(st.sampled_from(["sum", "hardest", "warp"])),
        "labels": labels,
        "x_ids": None if classes is None else own.integers(classes, B),
        "y_ids": None if classes is None else own.integers(classes, N),
        "symmetric": symmetric,
        "logit_scale": own.number(1.0, 0.25),
        "reduction": own(_reductions),
        "normalize": normalize,
    }


@st.composite
def hash_likelihood(draw: Callable[..., Any]) -> Inputs:
    """Related by ids or by a matrix, with and without the other terms."""
    own = _Draw(draw)
    B, K = own(_sizes()), own(_depths)
    N = own(st.one_of(st.just(B), _sizes()))
    codes: Tensor | None = None
    if N == B and own(st.booleans()):
        codes = 2.0 * own.integers(2, B, K) - 1
    return {
        "f": own.rows(B, K),
        "g": own.rows(N, K),
        **_related(own, B, N),
        "quantization": 0.0 if N != B else own(st.sampled_from([0.0, 0.4])),
        "balance": own(st.sampled_from([0.0, 0.2])),
        "codes": codes,
        "reduction": own(st.sampled_from(["mean", "sum"])),
    }


@st.composite
def cosine_max_margin(draw: Callable[..., Any]) -> Inputs:
    """Codes whose cosines are exact, or of float32."""
    own = _Draw(draw)
    B, N, exact = own(_sizes()), own(_sizes()), own(st.booleans()) or own.dtype != torch.float32
    K = own(st.sampled_from([4, 16, 64, 256])) if exact else own(_depths) + 2
    operand = own.signs if exact else own.rows
    return {
        "f": operand(B, K),
        "g": operand(N, K),
        "margin": own(st.sampled_from([0.3, 1.1])),
        **_related(own, B, N),
        "reduction": own(st.sampled_from(["mean", "sum"])),
    }


def _related(own: _Draw, B: int, N: int) -> Inputs:
    if own(st.booleans()):
        return {"relevance": strided(own.draw, own.integers(3, B, N) == 0)}
    return {"f_ids": own.integers(7, B), "g_ids": own.integers(7, N)}


@st.composite
def reduce_similarities(draw: Callable[..., Any], kind: str) -> Inputs:
    """The arguments of ``xmkern.ops.contrastive.reduce_similarities`` but for ``kind``: all sorts of pairs at once."""
    own = _Draw(draw)
    B, N, D, columns = own(_sizes()), own(_sizes()), own(_depths), own(st.booleans())
    operand = own.rows if kind in ("logsumexp", "mil", "softplus") else own.grid
    powers = torch.tensor([0.5, 1.0, 2.0])

    pairs = Pairs()
    if classes := own(st.sampled_from([1, 5, 300, 0])):
        pairs = pairs._replace(x_ids=own.integers(classes, B), y_ids=own.integers(classes, N))
    if classes := own(st.sampled_from([5, 1, 0])):
        pairs = pairs._replace(x_groups=own.integers(classes, B), y_groups=own.integers(classes, N))
    if kind in ("hinge", "margin"):
        pairs = pairs._replace(x_offset=own.integers(9, B) - 3.7, y_offset=own.integers(9, N) - 3.7)
    relevance = strided(draw, own.integers(3, B, N) == 0) if own(st.booleans()) else None
    return {
        "x": operand(B, D),
        "y": operand(N, D),
        "x_scale": powers[own.integers(3, B)].requires_grad_(own.graded),
        "y_scale": powers[own.integers(3, N)].requires_grad_(own.graded),
        "bias": torch.tensor(own(st.sampled_from([0.0, -2.0]))),
        "pairs": pairs._replace(relevance=relevance),
        "columns": columns,
    }
