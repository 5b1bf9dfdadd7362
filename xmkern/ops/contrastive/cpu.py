"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.contrastive.reference import KINDS
from xmkern.ops.fresh import fresh

_LANES = 16


def refuses(x: Tensor, y: Tensor, x_scale: Tensor, *args: object) -> str | None:
    if not x.is_cpu:
        return f"the tensors are on {x.device}"
    if x.dtype not in native.DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {x.dtype}"
    return native.why_missing()


def similarity_reduce(
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    x_groups: Tensor | None,
    y_groups: Tensor | None,
    relevance: Tensor | None,
    x_offset: Tensor | None,
    y_offset: Tensor | None,
    kind: str,
    columns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = _totals(x.shape[0])
    column_totals = _totals(y.shape[0] if columns else 0)
    x_side = side(x, x_scale, x_ids, x_groups, x_offset)
    y_side = side(y, y_scale, y_ids, y_groups, y_offset)
    related = _relevance(relevance)
    native.module().contrastive.forward(
        addresses(x, x_side),
        addresses(y, y_side),
        numbers(x, kind, columns, related),
        float(bias),
        [total.data_ptr() for total in rows],
        [total.data_ptr() for total in column_totals],
        torch.get_num_threads(),
    )
    return (*rows, *column_totals)


def similarity_reduce_backward(
    grad_row_value: Tensor,
    grad_row_positive: Tensor,
    grad_column_value: Tensor,
    grad_column_positive: Tensor,
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    x_groups: Tensor | None,
    y_groups: Tensor | None,
    relevance: Tensor | None,
    x_offset: Tensor | None,
    y_offset: Tensor | None,
    row_value: Tensor,
    row_positive: Tensor,
    column_value: Tensor,
    column_positive: Tensor,
    kind: str,
    columns: bool,
    x_grad: bool,
    y_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x_side = side(x, x_scale, x_ids, x_groups, x_offset)
    y_side = side(y, y_scale, y_ids, y_groups, y_offset)
    related = _relevance(relevance)
    row_slopes = [t.contiguous() for t in (row_value, row_positive, grad_row_value, grad_row_positive)]
    column_slopes = [t.contiguous() for t in (column_value, column_positive, grad_column_value, grad_column_positive)]
    sums, grad_scales, grad_bias = gradients(x, y, x_grad, y_grad)
    native.module().contrastive.backward(
        addresses(x, x_side),
        addresses(y, y_side),
        numbers(x, kind, columns, related),
        float(bias),
        [t.data_ptr() for t in (*row_slopes, sums[0], grad_scales[0])],  # null where there are no elements
        [t.data_ptr() for t in (*column_slopes, sums[1], grad_scales[1])],
        grad_bias.data_ptr(),
        torch.get_num_threads(),
    )
    return *rounded(sums, x, y), *grad_scales, grad_bias.sum()  # type: ignore[return-value]


def refuses_loss(x: Tensor, y: Tensor, *args: object) -> str | None:
    kind, columns = args[8:10]
    if x.dtype == torch.float16:
        return "the gradients of a sum may exceed the range of float16"
    if kind not in ("softplus", "logsumexp"):
        return f"the kernels have no loss of kind {kind!r}"
    refusal = refuses(x, y, *args)  # type: ignore[arg-type]
    alone = kind == "softplus" and not columns  # then the slopes need nothing but the logits
    if refusal is None and not alone and not native.module().contrastive.can_be_kept(x.shape[0], y.shape[0]):
        return f"a matrix of {x.shape[0]} rows and {y.shape[0]} columns is too large to be kept"
    return refusal


def similarity_loss(
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    x_groups: Tensor | None,
    y_groups: Tensor | None,
    relevance: Tensor | None,
    kind: str,
    columns: bool,
    weight: float,
    x_grad: bool,
    y_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x_side = side(x, x_scale, x_ids, x_groups, None)
    y_side = side(y, y_scale, y_ids, y_groups, None)
    related = _relevance(relevance)
    call = (addresses(x, x_side), addresses(y, y_side), numbers(x, kind, columns, related), float(bias), weight)
    if native.module().contrastive.can_be_kept(x.shape[0], y.shape[0]):
        wanted = ((x, x_grad), (y, y_grad))
        grads = [fresh(torch.empty(each.shape if want else 0, dtype=x.dtype, device="cpu")) for each, want in wanted]
        grad_scales = [torch.empty_like(x_scale), torch.empty_like(y_scale)]
        loss, grad_bias = native.module().contrastive.whole_loss(
            *call,
            *([each.data_ptr(), scale.data_ptr()] for each, scale in zip(grads, grad_scales, strict=True)),
            torch.get_num_threads(),
        )
        return x_scale.new_tensor(loss), *grads, *grad_scales, x_scale.new_tensor(grad_bias)  # type: ignore[return-value]
    sums, grad_scales, grad_bias = gradients(x, y, x_grad, y_grad)
    loss = native.module().contrastive.loss(
        *call,
        *([each.data_ptr(), scale.data_ptr()] for each, scale in zip(sums, grad_scales, strict=True)),
        grad_bias.data_ptr(),
        torch.get_num_threads(),
    )
    return x_scale.new_tensor(loss), *rounded(sums, x, y), *grad_scales, grad_bias.sum()  # type: ignore[return-value]


def _totals(count: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty(count, dtype=torch.float32, device="cpu"),
        torch.empty(count, dtype=torch.float32, device="cpu"),
        torch.empty(count, dtype=torch.int64, device="cpu"),
    )


def side(x: Tensor, *vectors: Tensor | None) -> list[Tensor | None]:
    """What the kernels read of a side: rows whose numbers are dense, and vectors."""
    rows = x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()
    return [rows, *(None if v is None else v.contiguous() for v in vectors)]


def addresses(x: Tensor, side: list[Tensor | None]) -> list[int]:
    rows, *vectors = side
    assert rows is not None
    return [rows.data_ptr(), x.shape[0], rows.stride(0), *(0 if v is None else v.data_ptr() for v in vectors)]


def _relevance(relevance: Tensor | None) -> Tensor | None:
    if relevance is None or relevance.stride(1) == 1 or relevance.shape[1] <= 1:
        return relevance
    return relevance.contiguous()


def numbers(x: Tensor, kind: str, columns: bool, relevance: Tensor | None) -> list[int]:
    related = (0, 0) if relevance is None else (relevance.data_ptr(), relevance.stride(0))
    return [x.shape[1], native.DTYPES[x.dtype], KINDS.index(kind), int(columns), *related]


def gradients(x: Tensor, y: Tensor, x_grad: bool, y_grad: bool) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Zeros to add to, in float32: of x and y, where wanted, in rows of whole vectors; of their scales; of the bias, a
    share a row."""
    width = -(-x.shape[1] // _LANES) * _LANES
    sums = [_zeros(each.shape[0], width) if want else _zeros(0) for each, want in ((x, x_grad), (y, y_grad))]
    return sums, [_zeros(each.shape[0]) for each in (x, y)], _zeros(x.shape[0])


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def rounded(sums: list[Tensor], *operands: Tensor) -> list[Tensor]:
    """In the dtypes of the operands; each sum makes room for the next."""
    return [sums.pop(0)[..., : x.shape[1]].to(x.dtype).contiguous() for x in operands]
