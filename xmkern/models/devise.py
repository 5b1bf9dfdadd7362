"""DeViSE."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from xmkern.data.vectors import SIZE
from xmkern.functional import ranking_loss
from xmkern.models.parts.cnn import ALEXNET, SMALL, Cnn, PictureEncoder
from xmkern.models.registry import register


@dataclass(frozen=True)
class DeviseConfig:
    """The network of Krizhevsky et al. and word vectors of 500 numbers."""

    picture: Cnn = ALEXNET
    dim: int = 500
    margin: float = 0.1


class DeviseOutput(NamedTuple):
    """Axes: ``B`` pictures, ``E`` the space of word vectors.

    Attributes:
        picture: [B, E].
    """

    picture: Tensor


@register(
    section="B",
    paper="Frome et al., DeViSE: A Deep Visual-Semantic Embedding Model, NeurIPS 2013",
    tiny=DeviseConfig(SMALL, SIZE),
    full=DeviseConfig(),
    kernels=("similarity_reduce",),
)
class Devise(nn.Module):
    """Pictures are mapped among word vectors, which stay as text alone made them: labels never seen have a place too.

    A linear map from a CNN's last layer ranks the label's vector above all others by a margin.

    Axes: ``B`` pictures, ``L`` labels, ``E`` the space of word vectors.
    """

    def __init__(self, config: DeviseConfig) -> None:
        super().__init__()
        self.config = c = config
        self.cnn = PictureEncoder(c.picture)
        self.out = nn.Linear(self.cnn.dim, c.dim, bias=False)

    def forward(self, pictures: Tensor) -> DeviseOutput:
        """[B, 3, H, W]"""
        return DeviseOutput(self.out(self.cnn(pictures)))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Hinge of ``pictures`` [B, 3, H, W], over all rivals of ``labels`` int64 [B] in ``label_vectors`` [L, E]."""
        return ranking_loss(
            self(batch["pictures"]).picture,
            batch["label_vectors"],
            labels=batch["labels"],
            margin=self.config.margin,
            symmetric=False,
        )

    def label_scores(self, pictures: Tensor, label_vectors: Tensor) -> Tensor:
        """[B, 3, H, W] and [L, E], of length 1 -> products [B, L]"""
        return self(pictures).picture @ label_vectors.T
