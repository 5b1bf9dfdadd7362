"""Losses of a batch, on gloo as on NCCL, and search in codes, that are spread over the processes of
:mod:`torch.distributed`."""

from xmkern.distributed.contrastive import info_nce, sigmoid_contrastive
from xmkern.distributed.hamming import ShardedBinaryIndex

__all__ = ["ShardedBinaryIndex", "info_nce", "sigmoid_contrastive"]
