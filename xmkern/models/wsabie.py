"""WSABIE."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from xmkern.functional import ranking_loss
from xmkern.models.parts.features import thumbnail
from xmkern.models.registry import register


@dataclass(frozen=True)
class WsabieConfig:
    """Any features of pictures; here a thumbnail's colours."""

    side: int = 16
    vocabulary: int = 15_952
    dim: int = 100
    margin: float = 1.0


class WsabieOutput(NamedTuple):
    """Axes: ``B`` pictures, ``D`` the common embedding.

    Attributes:
        picture: [B, D].
    """

    picture: Tensor


@register(
    section="B",
    paper="Weston et al., Large Scale Image Annotation: Learning to Rank with Joint Word-Image Embeddings, 2010",
    tiny=WsabieConfig(8, 2048, 64),
    full=WsabieConfig(),
    kernels=("similarity_reduce",),
)
class Wsabie(nn.Module):
    """Pictures and words are mapped linearly, and a violated margin weighs the more the lower the word ranks (WARP).

    The rank is exact, of all words, where the paper guesses it by how long a violator was to be sought.

    Axes: ``B`` pictures, ``V`` vocabulary, ``D`` the common embedding.
    """

    def __init__(self, config: WsabieConfig) -> None:
        super().__init__()
        self.config = c = config
        self.picture = nn.Linear(3 * c.side**2, c.dim, bias=False)
        self.word = nn.Embedding(c.vocabulary, c.dim)
        nn.init.normal_(self.word.weight, std=c.dim**-0.5)

    def forward(self, pictures: Tensor) -> WsabieOutput:
        """[B, 3, H, W]"""
        return WsabieOutput(self.picture(thumbnail(pictures, self.config.side)))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """WARP of ``pictures`` [B, 3, H, W], over all words but ``labels`` int64 [B]."""
        return ranking_loss(
            self(batch["pictures"]).picture,
            self.word.weight,
            labels=batch["labels"],
            margin=self.config.margin,
            mode="warp",
            symmetric=False,
        )

    def word_scores(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, V]"""
        return self(pictures).picture @ self.word.weight.T
