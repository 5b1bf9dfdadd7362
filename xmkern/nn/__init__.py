"""Modules that hold parameters and call :mod:`xmkern.functional`: drop-in replacements for torch's own."""

from xmkern.nn.attention import MultiheadAttention
from xmkern.nn.transformer import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = ["MultiheadAttention", "TransformerDecoderLayer", "TransformerEncoderLayer"]
