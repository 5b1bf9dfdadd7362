"""Draws tables from rows that were measured: ``python -m benchmarks tables``, for README.md and docs/benchmarks.md."""

import csv
import importlib
import math
import re
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "docs" / "benchmarks.md")
# What the summary says, where a file is not in English.
CHINESE = {
    "attention": ("注意力", "PyTorch 逐步计算与其融合注意力中较快者"),
    "co_attention": ("共注意力、多来源注意力", "上述两者各调用两次中较快者"),
    "bi_attention": ("一个矩阵、两个方向的注意力", "逐步计算与两次融合注意力中较快者"),
    "linear": ("线性层的乘积", "PyTorch 自身的乘积"),
    "epilogue": ("投影之后的运算", "PyTorch 逐步计算"),
    "blocks": ("整个模块，一个训练步", "PyTorch 逐步计算与其融合注意力中较快者"),
    "contrastive": ("对比损失，前向加反向", "PyTorch 逐步计算"),
    "late_interaction": ("延迟交互，前向加反向", "PyTorch 逐步计算"),
    "damsm": ("DAMSM，前向加反向", "对标题的循环"),
    "transport": ("最优传输", "PyTorch 逐步计算"),
    "diffusion": ("扩散，采样器的一步", "diffusers"),
    "models": ("transformers 与 diffusers 的整个模型：前向、训练步、束搜索生成", "原库自身"),
    "hamming": ("汉明检索，2^20 个码", "FAISS 较快的模式"),
}
# What was measured -> its name in the summary, and against what.
SUMMARY = {
    "attention": ("attention", "better of eager PyTorch and its fused attention"),
    "co_attention": ("co-attention, attention over several sources", "better of two calls of each"),
    "bi_attention": ("attention both ways by one matrix", "better of eager and two fused attentions"),
    "linear": ("products of linear layers", "torch's own"),
    "epilogue": ("what follows a projection", "eager PyTorch"),
    "blocks": ("whole blocks, a training step", "better of eager PyTorch and its fused attention"),
    "contrastive": ("contrastive losses, forward + backward", "eager PyTorch"),
    "late_interaction": ("late interaction, forward + backward", "eager PyTorch"),
    "damsm": ("DAMSM, forward + backward", "the loop over captions"),
    "transport": ("optimal transport", "eager PyTorch"),
    "diffusion": ("diffusion, a sampler's step", "diffusers"),
    "models": ("whole models: forward, a training step, writing by beams", "the library by itself"),
    "hamming": ("Hamming search, 2^20 codes", "better mode of FAISS"),
}
# Folders with rows of lesser processors -> what the summary calls their means, in English and in Chinese.
LESSER = {
    "avx512": ("mean, Intel without BF16", "平均：无 BF16 的 Intel"),
    "avx2": ("mean, AVX2 only", "平均：仅有 AVX2"),
}
# Tables that are not their benchmark's only one.
OTHERS = {"contrastive_memory": ("contrastive", "memory_table")}


def read(name: str) -> list[dict[str, str]] | None:
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return None
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(names: dict[str, tuple[str, str]]) -> str:
    """A line a family: how many times faster, of all its rows."""
    if names is CHINESE:
        heads = ["", "对手", "最低", "几何平均", "最高", *(head for _, head in LESSER.values())]
    else:
        heads = ["", "against", "least", "geometric mean", "most", *(head for head, _ in LESSER.values())]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for name, (title, peer) in names.items():
        if rows := read(name):
            ratios = [float(row["ratio"]) for row in rows]
            lesser = " | ".join(f"{mean(each)}x" if (each := read(f"{kind}/{name}")) else "" for kind in LESSER)
            lines.append(
                f"| {title} | {peer} | {min(ratios):.1f}x | **{mean(rows)}x** | {max(ratios):.1f}x | {lesser} |"
            )
    return "\n".join(lines)


def mean(rows: list[dict[str, str]]) -> str:
    """The geometric mean of how many times faster."""
    return f"{math.exp(sum(math.log(float(row['ratio'])) for row in rows) / len(rows)):.1f}"


def draw(name: str, chinese: bool = False) -> str:
    if name == "summary":
        return summary(CHINESE if chinese else SUMMARY)
    rows: Any = read(name)
    if rows is None:
        return "Not yet measured."
    module, function = OTHERS.get(name, (Path(name).name, "table"))
    facts = rows[0]
    where = f"{facts['processor']}, {facts['capability']}, {facts['threads']} threads, torch {facts['torch']}"
    return f"{getattr(importlib.import_module(f'benchmarks.{module}'), function)(rows)}\n\nMeasured on {where}."


def render(text: str, chinese: bool = False) -> str:
    marked = r"(<!-- table: ([\w/]+) -->\n).*?(<!-- end -->)"
    return re.sub(marked, lambda m: f"{m[1]}{draw(m[2], chinese)}\n{m[3]}", text, flags=re.DOTALL)


def main() -> None:
    for path in FILES:
        path.write_text(render(path.read_text(), chinese="zh" in path.name))
        print(f"drew tables into {path.relative_to(ROOT)}")
