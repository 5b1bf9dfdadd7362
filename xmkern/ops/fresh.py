"""Results that are too large to lie in memory that was used before."""

from torch import Tensor

from xmkern import native

# Two huge pages: from there on one of them at least lies inside.
_LEAST = 1 << 22


def fresh(x: Tensor) -> Tensor:
    """The same tensor, not written yet: if it is large, on huge pages where the system has them.

    An allocator gives the memory of large tensors back to the system, and the first write to each page of the next one
    is then a fault, which takes longer than what most kernels do with a page.
    """
    if x.nbytes >= _LEAST:
        native.module().ask_for_huge_pages(x.data_ptr(), x.nbytes)
    return x
