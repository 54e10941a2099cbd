"""VGG16 and VGG19 with batch normalisation, of any width and image size.

Source: Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, table 1, columns D and E; normalised after every
convolution as torchvision's vgg16_bn, so that convolutions need no bias.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from lib.models.layers import he_normal

WIDTHS = (1, 2, 4, 8, 8)  # filters of the five stages, in units of the first


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each with BN and ReLU, with 2x2 pooling after a stage; then Linear layers.

    A pooling that would leave nothing of the image is left out (the last one on 28x28).

    Args:
        shape: (channels, height, width) of an image; 16x16 or more.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        blocks: convolutions a stage.
        width: filters of the first convolution; 64 is VGG's.
        hidden: units of each of two fully connected layers before the last; 4096 is VGG's. None: one Linear layer,
            as networks for 32x32 images have it.
        dropout: share of units dropped after each of these two.
    Raises: ValueError for a smaller image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        normalise: nn.Module,
        blocks: Sequence[int],
        width: int = 64,
        hidden: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(shape[1:]) < 16:
            raise ValueError(f"images of {shape[1]}x{shape[2]} are too small for VGG: at least 16x16")
        self.normalise = normalise
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs, (rows, columns) = shape[0], shape[1:]
        for stage, (count, factor) in enumerate(zip(blocks, WIDTHS, strict=True), 1):
            for place in range(1, count + 1):
                layers[f"conv{stage}_{place}"] = nn.Conv2d(inputs, factor * width, 3, 1, 1, bias=False)
                layers[f"bn{stage}_{place}"] = nn.BatchNorm2d(factor * width)
                layers[f"relu{stage}_{place}"] = nn.ReLU()
                inputs = factor * width
            if min(rows, columns) > 1:
                layers[f"pool{stage}"] = nn.MaxPool2d(2)
                rows, columns = rows // 2, columns // 2
        self.features = nn.Sequential(layers)
        self.flatten = nn.Flatten()
        head: OrderedDict[str, nn.Module] = OrderedDict()
        units = inputs * rows * columns
        for name in ("6", "7") if hidden is not None else ():
            head[f"fc{name}"] = nn.Linear(units, hidden or 0)
            head[f"relu{name}"] = nn.ReLU()
            head[f"dropout{name}"] = nn.Dropout(dropout)
            units = hidden or 0
        head["fc8"] = nn.Linear(units, classes)
        self.classifier = nn.Sequential(head)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.features(self.normalise(images))))
