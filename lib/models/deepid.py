"""DeepID, a face network whose features come from two scales: the third pooling and the fourth convolution.

Source: Sun et al. 2014, "Deep learning face representation from predicting 10,000 classes" (CVPR), section 3.1, as
Neural Cleanse uses it on YouTube Face (Wang et al. 2019, appendix), 55 x 47 images.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lib.models.layers import he_normal


class DeepID(nn.Module):
    """Convolutions of w, 2w, 3w and 4w filters, pooling after the first three; 8w features, then a Linear layer.

    Args:
        shape: (channels, height, width) of an image; 31x31 or more.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        width: filters of the first convolution; 20 is the source's, which has 160 features.
    Raises: ValueError for a smaller image.
    """

    def __init__(self, shape: Sequence[int], classes: int, normalise: nn.Module, width: int = 20) -> None:
        super().__init__()
        sides = [_sides(side) for side in shape[1:]]
        if min(last for _, last in sides) < 1:
            raise ValueError(f"images of {shape[1]}x{shape[2]} are too small for DeepID: at least 31x31")
        self.normalise = normalise
        self.conv1 = nn.Conv2d(shape[0], width, 4)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(width, 2 * width, 3)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(2 * width, 3 * width, 3)
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)
        self.conv4 = nn.Conv2d(3 * width, 4 * width, 2)
        self.relu4 = nn.ReLU()
        self.flatten3, self.flatten4 = nn.Flatten(), nn.Flatten()
        third, fourth = ((sides[0][k] * sides[1][k]) for k in (0, 1))
        self.fc3 = nn.Linear(3 * width * third, 8 * width)
        self.fc4 = nn.Linear(4 * width * fourth, 8 * width)
        self.relu5 = nn.ReLU()
        self.fc5 = nn.Linear(8 * width, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(self.normalise(images))))
        x = self.pool2(self.relu2(self.conv2(x)))
        third = self.pool3(self.relu3(self.conv3(x)))
        fourth = self.relu4(self.conv4(third))
        features = self.relu5(self.fc3(self.flatten3(third)) + self.fc4(self.flatten4(fourth)))
        return self.fc5(features)


def _sides(side: int) -> tuple[int, int]:
    """An image's side after the third pooling and after the fourth convolution."""
    third = (((side - 3) // 2 - 2) // 2 - 2) // 2
    return third, third - 1
