"""EfficientNet (Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019)."""

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.layout import by_place

_EPS = 1e-3
_STEM = 32


class _Stage(NamedTuple):
    kernel: int
    repeats: int
    channels: int
    stride: int
    expand: int


_STAGES = (
    _Stage(3, 1, 16, 1, 1),
    _Stage(3, 2, 24, 2, 6),
    _Stage(5, 2, 40, 2, 6),
    _Stage(3, 3, 80, 2, 6),
    _Stage(5, 3, 112, 1, 6),
    _Stage(5, 4, 192, 2, 6),
    _Stage(3, 1, 320, 1, 6),
)


def _width(channels: int, factor: float) -> int:
    """Channels times the factor, the nearest multiple of 8 that is at least 0.9 times that."""
    exact = channels * factor
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


class _Convolution(nn.Sequential):
    """Convolution, batch norm, and SiLU if ``activate``; with stride 2 the output's sides are half, rounded up."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True):
        # Of an even side, TensorFlow pads one row and column less at the start than at the end.
        before, after = kernel // 2 - (stride == 2), kernel // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, _EPS),
            nn.SiLU() if activate else nn.Identity(),
        )
        self.padding = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.padding) if self.padding[1] else x)


class _Block(nn.Module):
    """Expand, filter by channel, weigh the channels, project: an inverted bottleneck.

    The first block of a stage has no residual, also where input and output are of one shape.
    """

    def __init__(self, inputs: int, outputs: int, stage: _Stage, stride: int, residual: bool, dropout: float) -> None:
        super().__init__()
        hidden, squeezed = inputs * stage.expand, max(1, inputs // 4)
        self.expand = _Convolution(inputs, hidden, 1) if stage.expand > 1 else nn.Identity()
        self.depthwise = _Convolution(hidden, hidden, stage.kernel, stride, groups=hidden)
        self.reduce, self.excite = nn.Conv2d(hidden, squeezed, 1), nn.Conv2d(squeezed, hidden, 1)
        self.project = _Convolution(hidden, outputs, 1, activate=False)
        self.residual, self.dropout = residual, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        y = y * self.excite(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        y = self.project(y)
        return x + self.dropout(y) if self.residual else y


class EfficientNet(nn.Module):
    """B0 at ``width`` and ``depth`` 1, B7 at 2.0 and 3.1; without the last convolution and the classifier.

    Args:
        width: factor of the channels.
        depth: factor of the blocks of a stage.
        dropout: of the last block, in training; it rises from 0 block by block.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, *, dropout: float = 0.2) -> None:
        super().__init__()
        channels = _width(_STEM, width)
        self.stem = _Convolution(3, channels, 3, 2)
        plan = [(stage, i) for stage in _STAGES for i in range(math.ceil(depth * stage.repeats))]
        blocks = []
        for number, (stage, i) in enumerate(plan):
            outputs = _width(stage.channels, width)
            stride = stage.stride if i == 0 else 1
            blocks.append(_Block(channels, outputs, stage, stride, i > 0, dropout * number / len(plan)))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.channels = channels

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W], sides multiples of 32 -> [B, channels, H / 32, W / 32]"""
        return self.blocks(self.stem(by_place(pictures)))
