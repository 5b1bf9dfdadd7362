"""torch's attention by ours, for code that cannot be changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from xmkern import functional

__all__ = ["Served", "scaled_dot_product_attention"]


@dataclass
class Served:
    """How many calls were served by ours, and how many were left to torch."""

    calls: int = 0
    left: int = 0


@contextmanager
def scaled_dot_product_attention() -> Iterator[Served]:
    """While open, ``torch.nn.functional.scaled_dot_product_attention`` of tensors on the CPU is ours, in all threads.

    So is what calls it by that name: :class:`torch.nn.MultiheadAttention`, transformers' ``sdpa``, diffusers. Code that
    holds the function itself (``from torch.nn.functional import scaled_dot_product_attention``) does not come by here.

        with scaled_dot_product_attention() as served:
            model(x).sum().backward()
        print(served.calls)

    Yields:
        The counts so far.

    Raises:
        RuntimeError: when it is closed and no call was served, so that nothing was gained by it.
    """
    before, served = F.scaled_dot_product_attention, Served()

    def ours(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if query.device.type != "cpu" or query.is_nested:
            served.left += 1
            return before(query, *args, **kwargs)
        served.calls += 1
        return functional.scaled_dot_product_attention(query, *args, **kwargs)

    F.scaled_dot_product_attention = ours
    try:
        yield served
    finally:
        F.scaled_dot_product_attention = before
    if not served.calls:
        raise RuntimeError(
            "no call of torch.nn.functional.scaled_dot_product_attention on the CPU came while it was served by "
            f"xmkern, and {served.left} on other devices"
        )
