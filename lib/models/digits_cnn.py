"""A small convolutional network for 28x28 digits, plain enough to read: two convolutions, two linear layers."""

from collections.abc import Sequence

from torch import Tensor, nn


class DigitsCNN(nn.Module):
    """conv-ReLU-pool twice, then two Linear layers.

    Args:
        shape: (channels, height, width) of an image.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        width: filters of the first convolution; the second has twice as many.
    """

    def __init__(self, shape: Sequence[int], classes: int, normalise: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.normalise = normalise
        self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(2 * width * (shape[1] // 4) * (shape[2] // 4), 4 * width)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(self.normalise(images))))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(self.flatten(x))))
