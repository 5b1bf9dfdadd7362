"""A co-attention layer of ViLBERT (Lu et al., NeurIPS 2019), line by line: what ``CoAttentionBlock`` is held to.

Stream 1 is the picture's, stream 2 the text's. The names are those of the authors' code, where the layer is called
``BertConnectionLayer`` and holds ``biattention``, ``biOutput``, ``v_intermediate``, ``v_output``, ``t_intermediate``
and ``t_output``.
"""

import math

import torch
from torch import Tensor, nn


class ConnectionLayer(nn.Module):
    def __init__(self, v_hidden: int, t_hidden: int, bi_hidden: int, heads: int, v_inner: int, t_inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query1, self.key1, self.value1 = (nn.Linear(v_hidden, bi_hidden) for _ in range(3))
        self.query2, self.key2, self.value2 = (nn.Linear(t_hidden, bi_hidden) for _ in range(3))
        self.dense1, self.LayerNorm1 = nn.Linear(bi_hidden, v_hidden), nn.LayerNorm(v_hidden, eps=1e-12)
        self.dense2, self.LayerNorm2 = nn.Linear(bi_hidden, t_hidden), nn.LayerNorm(t_hidden, eps=1e-12)
        self.v_intermediate, self.v_output = nn.Linear(v_hidden, v_inner), nn.Linear(v_inner, v_hidden)
        self.t_intermediate, self.t_output = nn.Linear(t_hidden, t_inner), nn.Linear(t_inner, t_hidden)
        self.v_LayerNorm, self.t_LayerNorm = nn.LayerNorm(v_hidden, eps=1e-12), nn.LayerNorm(t_hidden, eps=1e-12)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).permute(0, 2, 1, 3)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor) -> Tensor:
        query, key, value = (self.transpose_for_scores(x) for x in (query, key, value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + attention_mask
        context = (scores.softmax(-1) @ value).permute(0, 2, 1, 3).contiguous()
        return context.view(*context.shape[:-2], -1)

    def forward(
        self, input_tensor1: Tensor, attention_mask1: Tensor, input_tensor2: Tensor, attention_mask2: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[B, R, v_hidden], additive [B, 1, 1, R], [B, T, t_hidden], additive [B, 1, 1, T] -> both streams."""
        bi_output1 = self.attend(
            self.query2(input_tensor2), self.key1(input_tensor1), self.value1(input_tensor1), attention_mask1
        )
        bi_output2 = self.attend(
            self.query1(input_tensor1), self.key2(input_tensor2), self.value2(input_tensor2), attention_mask2
        )
        # Each stream's output is what its own queries have read.
        attention_output1 = self.LayerNorm1(self.dense1(bi_output2) + input_tensor1)
        attention_output2 = self.LayerNorm2(self.dense2(bi_output1) + input_tensor2)
        inner1 = nn.functional.gelu(self.v_intermediate(attention_output1))
        inner2 = nn.functional.gelu(self.t_intermediate(attention_output2))
        return (
            self.v_LayerNorm(self.v_output(inner1) + attention_output1),
            self.t_LayerNorm(self.t_output(inner2) + attention_output2),
        )


def hide(visible: Tensor) -> Tensor:
    """bool [B, S] -> additive [B, 1, 1, S]"""
    return torch.zeros(visible.shape).masked_fill(~visible, -10000.0)[:, None, None]
