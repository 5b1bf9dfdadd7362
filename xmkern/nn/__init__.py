"""Modules that call :mod:`xmkern.functional`: drop-in replacements for torch's layers and open_clip's losses."""

from xmkern.nn.attention import MultiheadAttention
from xmkern.nn.losses import ClipLoss, SigLipLoss
from xmkern.nn.transformer import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = ["ClipLoss", "MultiheadAttention", "SigLipLoss", "TransformerDecoderLayer", "TransformerEncoderLayer"]
