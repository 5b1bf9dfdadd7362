"""Whole blocks, a training step each, against the same block of eager PyTorch with torch's fused attention or without;
and where the time of ours goes: products, attention, what follows the products."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import PRODUCTS, RESULTS, alternate, write_rows
from xmkern import masks
from xmkern.nn import CoAttentionBlock, CrossModalityBlock, TransformerBlock

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def eager(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout_p: float) -> Tensor:
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return F.dropout(scores.softmax(-1), dropout_p) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout_p: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, visible, dropout_p)


PEERS: dict[str, Attend] = {"eager": eager, "sdpa": sdpa}


def _product(layer: nn.Linear, x: Tensor) -> Tensor:
    """By PyTorch, not by the layer, which may be ours."""
    return F.linear(x, layer.weight, layer.bias)


def _split(layer: nn.Linear, x: Tensor, heads: int) -> tuple[Tensor, ...]:
    return _product(layer, x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Plain:
    """What a block of ours computes, on its own parameters, one operation of PyTorch after the other."""

    def __init__(self, block: nn.Module, attend: Attend, dropout: float) -> None:
        self.block, self.attend, self.dropout = block, attend, dropout

    def join(self, x: Tensor, linear: nn.Linear, residual: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm(residual + F.dropout(_product(linear, x), self.dropout))

    def heads(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        return self.attend(q, k, v, visible, self.dropout).transpose(1, 2).flatten(2)

    def feed_forward(self, x: Tensor, layer: Any, norm: nn.LayerNorm) -> Tensor:
        return self.join(F.gelu(_product(layer.up, x)), layer.down, x, norm)

    def co_attention(self, a: Tensor, b: Tensor, visible_b: Tensor) -> tuple[Tensor, Tensor]:
        block: Any = self.block
        (q_a, k_a, v_a), (q_b, k_b, v_b) = (
            _split(block.qkv_a, a, block.num_heads),
            _split(block.qkv_b, b, block.num_heads),
        )
        a = self.join(self.heads(q_a, k_b, v_b, visible_b), block.out_a, a, block.attention_norm_a)
        b = self.join(self.heads(q_b, k_a, v_a, None), block.out_b, b, block.attention_norm_b)
        return (
            self.feed_forward(a, block.feed_forward_a, block.norm_a),
            self.feed_forward(b, block.feed_forward_b, block.norm_b),
        )

    def cross_modality(self, a: Tensor, b: Tensor, visible_b: Tensor) -> tuple[Tensor, Tensor]:
        block: Any = self.block
        heads = block.cross.num_heads
        (q_a, k_a, v_a), (q_b, k_b, v_b) = _split(block.cross.qkv, a, heads), _split(block.cross.qkv, b, heads)
        a = self.join(self.heads(q_a, k_b, v_b, visible_b), block.cross.out, a, block.cross_norm)
        b = self.join(self.heads(q_b, k_a, v_a, None), block.cross.out, b, block.cross_norm)
        a = self.alone(a, block.attention_a, block.attention_norm_a, None)
        b = self.alone(b, block.attention_b, block.attention_norm_b, visible_b)
        return (
            self.feed_forward(a, block.feed_forward_a, block.norm_a),
            self.feed_forward(b, block.feed_forward_b, block.norm_b),
        )

    def alone(self, x: Tensor, attention: Any, norm: nn.LayerNorm, visible: Tensor | None) -> Tensor:
        heads = self.heads(*_split(attention.qkv, x, attention.num_heads), visible)
        return self.join(heads, attention.out, x, norm)

    def transformer(self, a: Tensor) -> tuple[Tensor]:
        block: Any = self.block
        heads = self.heads(*_split(block.attention.qkv, block.norms[0](a), block.attention.num_heads), None)
        a = a + F.dropout(_product(block.attention.out, heads), self.dropout)
        layer = block.feed_forward
        inner = F.gelu(_product(layer.up, block.norms[1](a)))
        return (a + F.dropout(_product(layer.down, inner), self.dropout),)


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[float], nn.Module]  # of dropout
    sizes: list[tuple[int, int, int]]  # of each stream, [B, L, E]
    method: str  # of Plain


CASES = [
    Case(
        "ViLBERT, co-attention",
        lambda p: CoAttentionBlock(1024, 768, 8, hidden_a=1024, dropout=p, attention_dropout=p),
        [(16, 36, 1024), (16, 20, 768)],
        "co_attention",
    ),
    Case(
        "LXMERT, cross-modality",
        lambda p: CrossModalityBlock(768, 12, dropout=p, attention_dropout=p),
        [(16, 36, 768), (16, 20, 768)],
        "cross_modality",
    ),
    Case(
        "ViLT, pre-norm",
        lambda p: TransformerBlock(768, 12, dropout=p, attention_dropout=p),
        [(4, 240, 768)],
        "transformer",
    ),
]


class Contest:
    """One block in one dtype: the inputs, and who computes a training step on them."""

    def __init__(self, case: Case, dtype: torch.dtype, dropout: float) -> None:
        torch.manual_seed(0)
        self.block = case.build(dropout).to(dtype)
        self.streams = [torch.randn(size).to(dtype).requires_grad_() for size in case.sizes]
        self.cotangents = [torch.randn(size).to(dtype) for size in case.sizes]
        self.masks: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())
        if len(case.sizes) == 2:  # the words are padded
            batch, length, _ = case.sizes[1]
            lengths = torch.linspace(length // 2, length, batch).long()
            visible = (torch.arange(length) < lengths[:, None])[:, None, None]
            self.masks = (None, masks.key_lengths(lengths)), (visible,)
        self.plain = {name: getattr(Plain(self.block, attend, dropout), case.method) for name, attend in PEERS.items()}

    def outputs(self, name: str) -> tuple[Tensor, ...]:
        if name != "xmkern":
            return self.plain[name](*self.streams, *self.masks[1])
        out = self.block(*self.streams, *self.masks[0])
        return out if isinstance(out, tuple) else (out,)

    def check(self) -> None:
        """Raises AssertionError unless values are those of eager PyTorch (tests compare gradients with references)."""
        rough = self.streams[0].dtype != torch.float32
        for mine, theirs in zip(self.outputs("xmkern"), self.outputs("eager"), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=5e-2 if rough else 1e-4)

    def step(self, name: str) -> None:
        torch.autograd.grad(self.outputs(name), [*self.streams, *self.block.parameters()], self.cotangents)


def shares(call: Callable[[], Any], rounds: int = 10) -> dict[str, float]:
    """Of the time of our step: products, attention, what follows the products, and the rest (copies, sums
    of gradients, PyTorch's own work)."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(rounds):
            call()
    parts = {"products": 0.0, "attention": 0.0, "epilogue": 0.0, "rest": 0.0}
    for event in seen.key_averages():
        name = event.key
        if name in (*PRODUCTS, "aten::bmm"):
            part = "products"
        elif name.startswith("xmkern::"):
            part = "attention" if "attention" in name else "epilogue"
        else:
            part = "rest"
        parts[part] += event.self_cpu_time_total
    whole = sum(parts.values())
    return {name: part / whole for name, part in parts.items()}


def rows() -> list[dict[str, Any]]:
    out = []
    for (dtype_name, dtype), case, dropout in itertools.product(DTYPES.items(), CASES, (0.0, 0.1)):
        contest = Contest(case, dtype, dropout)
        if dropout == 0:
            contest.check()
        times = alternate({name: partial(contest.step, name) for name in ("xmkern", *PEERS)}, seconds=3.0, least=7)
        row = {"case": case.name, "dtype": dtype_name, "dropout": dropout}
        row |= {f"{name}_ms": round(time * 1e3, 3) for name, time in times.items()}
        row["ratio"] = round(min(times[name] for name in PEERS) / times["xmkern"], 2)
        parts = shares(partial(contest.step, "xmkern"))
        out.append(row | {f"{part}_share": round(share, 3) for part, share in parts.items()})
        print(f"{dtype_name:9} {case.name:24} dropout {dropout}: {row['ratio']:.2f}x", flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    lines = [
        "| a training step | dropout | dtype | xmkern | eager | with torch's fused attention | ratio to the better | "
        "of ours: products | attention | what follows | rest |",
        "| --- | ---: | --- |" + " ---: |" * 8,
    ]
    for r in measured:
        times = " | ".join(f"{float(r[f'{who}_ms']):.1f} ms" for who in ("xmkern", "eager", "sdpa"))
        parts = " | ".join(
            f"{100 * float(share):.0f} %" if (share := r[f"{part}_share"]) != "" else ""
            for part in ("products", "attention", "epilogue", "rest")
        )
        case = f"{r['case']} | {float(r['dropout']):g} | {r['dtype']}"
        lines.append(f"| {case} | {times} | **{float(r['ratio']):.2f}x** | {parts} |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    path = write_rows("blocks", measured)
    print(f"\nrows in {path.relative_to(RESULTS.parent.parent)}")
