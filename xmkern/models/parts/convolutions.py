"""Pictures to maps of features by convolutions alone."""

from collections.abc import Sequence

from torch import Tensor, nn

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg(nn.Sequential):
    """3 x 3 convolutions with rectifiers, each stage halved by the greatest of four (Simonyan and Zisserman, 2015).

    Args:
        stages: channels of each convolution of each stage.
        norm: whether GroupNorm follows each convolution, which the original, trained in parts, has not.
        channels: of a picture.
    """

    def __init__(self, stages: Sequence[Sequence[int]] = VGG16, *, norm: bool = False, channels: int = 3) -> None:
        layers: list[nn.Module] = []
        for stage in stages:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1)]
                layers += [nn.GroupNorm(8, width)] if norm else []
                layers += [nn.ReLU()]
                channels = width
            layers += [nn.MaxPool2d(2)]
        super().__init__(*layers)
        self.width, self.shrink = channels, 2 ** len(stages)

    def regions(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, R, F], the map's places row by row."""
        return self(pictures).flatten(2).mT
