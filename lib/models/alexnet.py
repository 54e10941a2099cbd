"""AlexNet in its CIFAR form: five 3x3 convolutions, three fully connected layers with dropout.

Source: Krizhevsky et al. 2012, with the kernels and strides that 32x32 images allow.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lib.models.layers import he_normal


class AlexNet(nn.Module):
    """Widths w, 3w, 6w, 4w, 4w; strides 2 and three 2x2 poolings; two hidden layers.

    Args:
        shape: (channels, height, width) of an image; sides of 28 to 64.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        width: filters of the first convolution; 64 is AlexNet's.
        hidden: units of the fully connected layers; 4096 is AlexNet's.
        dropout: share of units dropped before each hidden layer.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        normalise: nn.Module,
        width: int = 64,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, 2, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 3 * width, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3 * width, 6 * width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(6 * width, 4 * width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(4 * width, 4 * width, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        rows, columns = ((-(-side // 2)) // 8 for side in shape[1:])
        if rows < 1 or columns < 1:
            raise ValueError(f"images of {shape[1]}x{shape[2]} are too small for AlexNet: at least 15x15")
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * width * rows * columns, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )
        he_normal(self)  # without batch normalisation, torch's default start hardly trains

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(self.normalise(images)))
