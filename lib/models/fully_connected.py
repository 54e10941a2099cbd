"""FC5: five fully connected layers. Source: Maestrati 2020, "un perceptron à 5 couches"; widths are ours."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from lib.models.layers import he_normal


class FC5(nn.Module):
    """Flatten, then five Linear layers with ReLU between them.

    Args:
        shape: (channels, height, width) of an image.
        classes: number of logits.
        normalise: first module, on images in [0, 1].
        hidden: units of the four hidden layers.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        normalise: nn.Module,
        hidden: Sequence[int] = (1024, 512, 256, 128),
    ) -> None:
        super().__init__()
        if len(hidden) != 4:
            raise ValueError(f"FC5 has four hidden layers, got {len(hidden)}: {tuple(hidden)}")
        self.normalise = normalise
        sizes = [prod(shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.normalise(images))
