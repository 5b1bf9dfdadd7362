"""Convolutional networks that read pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn


class Convolution(NamedTuple):
    """How wide, its kernel, stride and padding, and the window of a max-pool of stride 2 behind it, 0 for none."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0


@dataclass(frozen=True)
class Cnn:
    """Sizes of a :class:`PictureEncoder`.

    Attributes:
        size: side of a picture, in pixels.
        layers: its convolutions.
        hidden: widths of the fully connected layers behind them; none takes the mean over places instead.
        norm: whether each convolution is followed by batch normalisation.
        dropout: behind each fully connected layer, in training.
    """

    size: int
    layers: tuple[Convolution, ...]
    hidden: tuple[int, ...] = ()
    norm: bool = False
    dropout: float = 0.0


def _vgg(*stages: tuple[int, int]) -> tuple[Convolution, ...]:
    return tuple(
        Convolution(channels, pool=2 if last else 0)
        for count, channels in stages
        for last in [False] * (count - 1) + [True]
    )


# Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, table 1, E.
VGG19 = Cnn(224, _vgg((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)), (4096, 4096), dropout=0.5)
# Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014: in one column.
ALEXNET = Cnn(
    224,
    (
        Convolution(64, 11, 4, 2, pool=3),
        Convolution(192, 5, 1, 2, pool=3),
        Convolution(384),
        Convolution(256),
        Convolution(256, pool=3),
    ),
    (4096, 4096),
    dropout=0.5,
)
# Chatfield et al., Return of the Devil in the Details, BMVC 2014, table 1.
CNN_F = Cnn(
    224,
    (
        Convolution(64, 11, 4, 0, pool=3),
        Convolution(256, 5, 1, 2, pool=3),
        Convolution(256),
        Convolution(256),
        Convolution(256, pool=3),
    ),
    (4096, 4096),
    dropout=0.5,
)
# For pictures of 64 pixels: a map of 4 x 4 places, learnt in a minute.
SMALL = Cnn(64, (Convolution(32, 4, 4, 0), *(Convolution(width, pool=2) for width in (64, 128))), norm=True)


class PictureEncoder(nn.Module):
    """Convolutions with rectifiers, then fully connected layers or the mean over places.

    Axes: ``B`` batch, ``C`` channels of the last convolution (``channels``), ``P`` places of its map, ``F`` features
    (``dim``): the width of the last layer.
    """

    def __init__(self, config: Cnn) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for layer in config.layers:
            layers += [
                nn.Conv2d(width, layer.channels, layer.kernel, layer.stride, layer.padding, bias=not config.norm),
                nn.BatchNorm2d(layer.channels) if config.norm else nn.Identity(),
                nn.ReLU(),
                nn.MaxPool2d(layer.pool, 2, ceil_mode=True) if layer.pool else nn.Identity(),
            ]
            width = layer.channels
        self.convolutions = nn.Sequential(*layers)
        self.channels = self.dim = width
        head: list[nn.Module] = []
        if config.hidden:
            width *= _places(config.size, config.layers) ** 2
        for hidden in config.hidden:
            head += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            self.dim = width = hidden
        self.head = nn.Sequential(nn.Flatten(), *head) if head else None

    def map(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C, height, width]"""
        return self.convolutions(pictures)

    def places(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, P, C], row by row."""
        return self.map(pictures).flatten(2).mT

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, F]"""
        x = self.map(pictures)
        return x.mean((2, 3)) if self.head is None else self.head(x)


def _places(size: int, layers: Sequence[Convolution]) -> int:
    """The side of the last map."""
    for layer in layers:
        size = (size + 2 * layer.padding - layer.kernel) // layer.stride + 1
        size = -(-(size - layer.pool) // 2) + 1 if layer.pool else size
    return size
