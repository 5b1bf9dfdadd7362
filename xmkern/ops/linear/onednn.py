"""oneDNN's product in bfloat16, where torch itself would add the bias in a pass of its own."""

import torch
from torch import Tensor

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def refuses(x: Tensor, weight: Tensor, *args: object) -> str | None:
    if not (x.is_cpu and weight.is_cpu):
        return f"the tensors are on {x.device} and {weight.device}"
    if x.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16:
        return f"oneDNN is asked in bfloat16 only, not {x.dtype} and {weight.dtype}"
    return None if _AVAILABLE else "this torch has no oneDNN"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
