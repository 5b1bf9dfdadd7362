"""Losses of a batch that is spread over the processes of :mod:`torch.distributed`, on gloo as on NCCL."""

from xmkern.distributed.contrastive import info_nce, sigmoid_contrastive

__all__ = ["info_nce", "sigmoid_contrastive"]
