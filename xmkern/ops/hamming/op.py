"""The operators of Hamming search: schemas, fakes, backends. They have no gradient."""

import torch
from torch import Tensor

from xmkern.ops.hamming import cpu, cuda, reference, triton
from xmkern.ops.registry import Backend, Op


def _backends(name: str) -> list[Backend]:
    """The launchers that have a function of this name, and the reference, which has all."""
    launchers = {"cpu": cpu, "cuda": cuda, "triton": triton}
    fast = [Backend(kind, getattr(own, name), own.refuses) for kind, own in launchers.items() if hasattr(own, name)]
    return [*fast, Backend("reference", getattr(reference, name))]


def _random_codes(count: int, width: int) -> Tensor:
    return torch.randint(0, 256, (count, width), dtype=torch.uint8)


pack_bits = Op(
    "pack_bits(Tensor x) -> Tensor",
    backends=_backends("pack_bits"),
    fake=lambda x: x.new_empty(x.shape[0], (x.shape[1] + 7) // 8, dtype=torch.uint8),
    sample=lambda: (torch.randn(5, 21),),
)

unpack_bits = Op(
    "unpack_bits(Tensor codes, SymInt bits) -> Tensor",
    backends=_backends("unpack_bits"),
    fake=lambda codes, bits: codes.new_empty(codes.shape[0], bits, dtype=torch.bool),
    sample=lambda: (_random_codes(5, 3), 21),
)

hamming_distance = Op(
    "hamming_distance(Tensor a, Tensor b) -> Tensor",
    backends=_backends("hamming_distance"),
    fake=lambda a, b: a.new_empty(a.shape[0], b.shape[0], dtype=torch.int32),
    sample=lambda: (_random_codes(5, 3), _random_codes(9, 3)),
)


def _fake_topk(queries: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.int32), queries.new_empty(shape, dtype=torch.int64)


hamming_topk = Op(
    "hamming_topk(Tensor queries, Tensor codes, SymInt k) -> (Tensor, Tensor)",
    backends=_backends("hamming_topk"),
    fake=_fake_topk,
    sample=lambda: (_random_codes(5, 8), _random_codes(300, 8), 4),
)


def _fake_range(queries: Tensor, codes: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size()
    return (
        queries.new_empty(queries.shape[0] + 1, dtype=torch.int64),
        queries.new_empty(found, dtype=torch.int32),
        queries.new_empty(found, dtype=torch.int64),
    )


hamming_range = Op(
    "hamming_range(Tensor queries, Tensor codes, SymInt radius) -> (Tensor, Tensor, Tensor)",
    backends=_backends("hamming_range"),
    fake=_fake_range,
    sample=lambda: (_random_codes(5, 3), _random_codes(300, 3), 9),
)
