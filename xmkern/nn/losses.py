"""open_clip's contrastive losses, the matrix of logits never made."""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor, nn

from xmkern import distributed, functional


class ClipLoss(nn.Module):
    """open_clip's ``ClipLoss`` (3.3.0) on fused kernels: its constructor, arguments, outputs and gradients.

    Memory is O(B D) for the B rows of the global batch, where open_clip takes O(B^2) on each rank, or O(B^2 /
    world_size) with ``local_loss``; and a rank computes its rows' part of the matrix alone, and once. What differs:

    - The loss of float16 and bfloat16 features is float32.
    - With ``local_loss`` and ``gather_with_grad`` the gradients of ``logit_scale`` and ``logit_bias`` are already
      averaged over the ranks, as ``DistributedDataParallel`` averages open_clip's.
    - With several ranks and without ``local_loss`` all must backpropagate the same gradient into the loss.

    Args:
        local_loss: whether a rank's loss is that of its own rows against all columns, both ways, and not the global
            one.
        gather_with_grad: whether gradients reach the features through the losses of other ranks. They are then, after
            averaging over ranks, those of the global loss.
        cache_labels: changes nothing: no labels are made.
        rank: of this process.
        world_size: the number of processes, all of torch.distributed's default group; each has as many rows.
        use_horovod: must be False where ``world_size`` is more than 1.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        if use_horovod and world_size > 1:
            raise ValueError("use_horovod must be False: the ranks talk by torch.distributed")
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.use_horovod = use_horovod

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """
        Args:
            image_features: [B, D], normalised.
            text_features: [B, D], normalised; row i belongs to row i of the images.
            logit_scale: the inverse temperature itself, not its logarithm.
            logit_bias: moves no loss and has no gradient but rounding's.
            output_dict: whether to return ``{"contrastive_loss": loss}``.
        """
        loss = self._loss(image_features, text_features, logit_scale, logit_bias)
        return {"contrastive_loss": loss} if output_dict else loss

    def _loss(self, x: Tensor, y: Tensor, scale: Tensor | float, bias: Tensor | float | None) -> Tensor:
        if self.world_size == 1:
            return functional.info_nce(x, y, scale, logit_bias=bias)
        if self.local_loss and not self.gather_with_grad:
            of_images, of_texts = (
                distributed.info_nce(own, all_.detach(), scale, logit_bias=bias, symmetric=False, exchange="gather")
                for own, all_ in ((x, y), (y, x))
            )
            return (of_images + of_texts) / 2
        if not self.gather_with_grad:  # only through this rank's copy of the global loss, of which there are world_size
            x, y = (_with_gradient(features, lambda grad: grad / self.world_size) for features in (x, y))
        scale, bias = (_with_gradient(number, self._mean_over_ranks) for number in (scale, bias))
        share = distributed.info_nce(x, y, scale, logit_bias=bias, exchange="gather")
        if self.local_loss:
            return share
        return share - share.detach() + self._mean_over_ranks(share.detach())

    def _mean_over_ranks(self, x: Tensor) -> Tensor:
        mean = x / self.world_size
        dist.all_reduce(mean)
        return mean


def _with_gradient(x, change: Callable[[Tensor], Tensor]):
    """x, whose gradient is changed on its way."""
    if isinstance(x, Tensor) and x.requires_grad:
        x = x.view_as(x)
        x.register_hook(change)
    return x


class SigLipLoss(nn.Module):
    """open_clip's ``SigLipLoss`` (3.3.0) on fused kernels: its constructor, arguments, outputs and gradients.

    Nothing of size B x B is made, kept for the backward or exchanged. The loss of float16 and bfloat16 features is
    float32.

    Args:
        cache_labels: changes nothing: no labels are made.
        rank: of this process.
        world_size: the number of processes, all of torch.distributed's default group; each has as many rows.
        dist_impl: how a rank comes to see the texts of others: ``"bidir"`` (the default) and ``"shift"`` pass them
            round, two ranks' at a time in memory; ``"gather"`` and ``"reduce"`` gather all. Results are the same.
        chunk_size: open_clip's later versions bound their memory by it. Changes nothing.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        chunk_size: int = 0,
    ) -> None:
        super().__init__()
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl or "bidir"
        self.chunk_size = chunk_size
        if self.dist_impl not in ("bidir", "shift", "reduce", "gather"):
            raise ValueError(f"dist_impl must be 'bidir', 'shift', 'reduce' or 'gather', not {dist_impl!r}")

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """
        Args:
            image_features: [B, D], normalised.
            text_features: [B, D], normalised; row i belongs to row i of the images.
            logit_scale: the inverse temperature itself, not its logarithm.
            logit_bias: is added to all logits.
            output_dict: whether to return ``{"contrastive_loss": loss}``.
        """
        inputs = (image_features, text_features, logit_scale, logit_bias)
        if self.world_size == 1:
            loss = functional.sigmoid_contrastive(*inputs)
        elif self.dist_impl in ("bidir", "shift"):
            loss = distributed.sigmoid_contrastive(*inputs, exchange="ring")
        else:
            loss = distributed.sigmoid_contrastive(*inputs, exchange="gather")
        return {"contrastive_loss": loss} if output_dict else loss
