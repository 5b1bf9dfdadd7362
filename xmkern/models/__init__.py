"""The systems that a survey of cross-modal representation and generation describes, each a short file on our kernels.

>>> from xmkern.models import create_model, list_models, model_card
>>> model = create_model("clip")                          # random weights, trains in two minutes
>>> model = create_model("vilt", "paper", depth=6)        # published sizes, but for one

A system has ``config``, a frozen dataclass; a ``forward`` that returns a small named tuple; and ``loss(batch)``, the
scalar that trains it, of a mapping of named tensors. Words are integers [B, T] that end with 0 for padding
(:mod:`xmkern.data.words`), pictures float [B, 3, H, W] in -1 to 1.
"""

from xmkern.models.registry import ModelCard, create_model, list_models, model_card
from xmkern.models.weights import load_reference

__all__ = ["ModelCard", "create_model", "list_models", "load_reference", "model_card"]
