"""Modules that call :mod:`xmkern.functional`: drop-in replacements for torch's layers and open_clip's losses, and the
blocks of which cross-modal networks are made."""

from xmkern.nn.attention import MultiheadAttention
from xmkern.nn.bi_attention import BiAttention
from xmkern.nn.blocks import TransformerBlock
from xmkern.nn.cache import KeyValueCache
from xmkern.nn.convolution import Conv1d, Conv2d, Conv3d
from xmkern.nn.cross_attention import CrossAttention, GatedCrossAttention, SelfAttention
from xmkern.nn.feed_forward import FeedForward
from xmkern.nn.fusion import CoAttentionBlock, CrossModalityBlock
from xmkern.nn.linear import Linear
from xmkern.nn.losses import ClipLoss, SigLipLoss
from xmkern.nn.swap import replace, restore
from xmkern.nn.transformer import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "BiAttention",
    "ClipLoss",
    "CoAttentionBlock",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "CrossAttention",
    "CrossModalityBlock",
    "FeedForward",
    "GatedCrossAttention",
    "KeyValueCache",
    "Linear",
    "MultiheadAttention",
    "SelfAttention",
    "SigLipLoss",
    "TransformerBlock",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "replace",
    "restore",
]
