"""The traffic-sign network of Neural Cleanse: six convolutions in three pairs, two Linear layers.

Source: Wang et al. 2019 (Neural Cleanse, IEEE S&P), appendix, model architecture for GTSRB.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from lib.models.layers import he_normal


class SignsCNN(nn.Module):
    """Three times two 3x3 convolutions (the second without padding), 2x2 pooling and dropout; then two Linear layers.

    Args:
        shape: (channels, height, width) of an image; 22x22 or more.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        width: filters of the first pair; 32 is the source's, and the pairs have 1, 2 and 4 times as many.
        dropout: share dropped after each pooling; before the last layer it is `last_dropout`.
        last_dropout: 0.5 is the source's.
    Raises: ValueError for a smaller image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        normalise: nn.Module,
        width: int = 32,
        dropout: float = 0.2,
        last_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(shape[1:]) < 22:
            raise ValueError(f"images of {shape[1]}x{shape[2]} are too small for this network: at least 22x22")
        self.normalise = normalise
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs, (rows, columns) = shape[0], shape[1:]
        for pair, factor in enumerate((1, 2, 4)):
            for place, padding in ((2 * pair + 1, 1), (2 * pair + 2, 0)):
                layers[f"conv{place}"] = nn.Conv2d(inputs, factor * width, 3, padding=padding)
                layers[f"relu{place}"] = nn.ReLU()
                inputs = factor * width
            layers[f"pool{pair + 1}"] = nn.MaxPool2d(2)
            layers[f"dropout{pair + 1}"] = nn.Dropout(dropout)
            rows, columns = (rows - 2) // 2, (columns - 2) // 2
        self.features = nn.Sequential(layers)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(inputs * rows * columns, 16 * width)
        self.relu7 = nn.ReLU()
        self.dropout4 = nn.Dropout(last_dropout)
        self.fc2 = nn.Linear(16 * width, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.flatten(self.features(self.normalise(images)))
        return self.fc2(self.dropout4(self.relu7(self.fc1(x))))
