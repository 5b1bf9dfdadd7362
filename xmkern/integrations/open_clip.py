"""open_clip's losses on our kernels: the matrix of logits is never made.

:func:`patch` changes the classes, so that what ``create_loss`` made before or will make is served; without it, write
:class:`xmkern.nn.ClipLoss` for ``open_clip.ClipLoss``.
"""

from typing import Any

from open_clip import loss as _theirs
from torch import Tensor

from xmkern.nn import ClipLoss, SigLipLoss

__all__ = ["patch", "unpatch"]


def _clip(self: Any, image_features: Tensor, text_features: Tensor, *args: Any, **kwargs: Any) -> Any:
    options = (self.local_loss, self.gather_with_grad, self.cache_labels, self.rank, self.world_size, self.use_horovod)
    return ClipLoss(*options)(image_features, text_features, *args, **kwargs)


def _siglip(self: Any, image_features: Tensor, text_features: Tensor, *args: Any, **kwargs: Any) -> Any:
    loss = SigLipLoss(self.cache_labels, self.rank, self.world_size, self.dist_impl)
    return loss(image_features, text_features, *args, **kwargs)


_FORWARDS = {"ClipLoss": _clip, "SigLipLoss": _siglip}
_BEFORE: dict[str, Any] = {}


def patch() -> tuple[str, ...]:
    """Serves open_clip's ``ClipLoss``, the contrastive part of its ``CoCaLoss``, and ``SigLipLoss`` by ours.

    ``DistillClipLoss`` needs the logits themselves and stays as it is.

    Returns:
        The classes whose ``forward`` was replaced.

    Raises:
        RuntimeError: they are patched already.
    """
    if _BEFORE:
        raise RuntimeError("open_clip's losses are patched already")
    for name, forward in _FORWARDS.items():
        cls = getattr(_theirs, name)
        _BEFORE[name] = cls.forward
        cls.forward = forward
    return tuple(_BEFORE)


def unpatch() -> tuple[str, ...]:
    """Undoes :func:`patch`; returns the classes, and raises RuntimeError where they are not patched."""
    if not _BEFORE:
        raise RuntimeError("open_clip's losses are not patched")
    names = tuple(_BEFORE)
    for name in names:
        getattr(_theirs, name).forward = _BEFORE.pop(name)
    return names
