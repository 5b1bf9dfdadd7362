"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.late_interaction.reference import index_dtype


def refuses(x: Tensor, y: Tensor, *args: object) -> str | None:
    if not x.is_cpu:
        return f"the tensors are on {x.device}"
    if x.dtype not in native.DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {x.dtype}"
    return native.why_missing()


def max_similarity(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, mean: bool, both: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, R, _), (N, T, _) = x.shape, y.shape

    def results(wanted: bool, tokens: int, others: int) -> tuple[Tensor, Tensor]:
        scores = torch.empty((B, N) if wanted else 0, dtype=torch.float32, device="cpu")
        # Zeros, because what is hidden wins nothing and is not written.
        winners = torch.zeros((B, N, tokens) if wanted else 0, dtype=index_dtype(others), device="cpu")
        return scores, winners

    x_scores, x_winners = results(True, R, T)
    y_scores, y_winners = results(both, T, R)
    call, kept = _call(x, y, x_mask, y_mask, mean)
    native.module().late_interaction.forward(
        *call, _scores(x_scores, x_winners), _scores(y_scores if both else None, y_winners), torch.get_num_threads()
    )
    del kept
    return x_scores, y_scores, x_winners, y_winners


def max_similarity_backward(
    grad_x_scores: Tensor,
    grad_y_scores: Tensor | None,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    x_winners: Tensor,
    y_winners: Tensor,
    mean: bool,
    x_grad: bool,
    y_grad: bool,
) -> tuple[Tensor, Tensor]:
    grads = [
        (torch.empty if mask is None else torch.zeros)(side.shape if wanted else 0, dtype=side.dtype, device="cpu")
        for side, mask, wanted in ((x, x_mask, x_grad), (y, y_mask, y_grad))
    ]
    call, kept = _call(x, y, x_mask, y_mask, mean)
    grad_x_scores = grad_x_scores.contiguous()
    grad_y_scores = None if grad_y_scores is None else grad_y_scores.contiguous()
    x_winners, y_winners = x_winners.contiguous(), y_winners.contiguous()
    native.module().late_interaction.backward(
        *call,
        _scores(grad_x_scores, x_winners),
        _scores(grad_y_scores, y_winners),
        *(grad.data_ptr() for grad in grads),  # null where there are no elements
        torch.get_num_threads(),
    )
    del kept
    return grads[0], grads[1]


def _call(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, mean: bool
) -> tuple[tuple[object, ...], object]:
    """The arguments that both directions share, and the tensors that must outlive the call."""
    x_numbers, x_kept = _side(x, x_mask)
    y_numbers, y_kept = _side(y, y_mask)
    return (native.DTYPES[x.dtype], x.shape[2], mean, x_numbers, y_numbers), (x_kept, y_kept)


def _side(x: Tensor, mask: Tensor | None) -> tuple[tuple[int, ...], object]:
    x = x if x.stride(2) == 1 else x.contiguous()
    mask = None if mask is None else mask.contiguous()
    samples, tokens, _ = x.shape
    sample, token, _ = x.stride()
    return (x.data_ptr(), samples, tokens, sample, token, 0 if mask is None else mask.data_ptr()), (x, mask)


def _scores(scores: Tensor | None, winners: Tensor) -> tuple[int, int]:
    return 0 if scores is None else scores.data_ptr(), winners.data_ptr()
