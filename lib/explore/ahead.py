"""python -m lib.explore.ahead: compile the loops of slicing and of AI-Lancet and keep them, so that no kernel waits.

numba keeps what it compiled beside the source, or in the user's cache folder where it cannot write there.
"""

import sys

import torch
from torch import Tensor, nn

from lib import lancet, slicing


class Tiny(nn.Module):
    """A network of every operation that has a compiled loop."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.point = nn.Conv2d(4, 4, 1)
        self.highest, self.mean = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.last = nn.Linear(4 * 2 * 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.first(images))
        x = self.mean(self.highest(self.point(x) + torch.relu(self.second(x))))
        return self.last(torch.flatten(x, 1))


def compile_ahead() -> None:
    """Call the public functions once, on a network and images of a few numbers."""
    torch.manual_seed(0)
    model, images = Tiny().eval(), torch.rand(8, 3, 8, 8)
    with torch.no_grad():
        model.last.bias.sub_(model(images).mean(0))  # so that it does not give all images the same class
        labels = model(images).argmax(1)
    profile = slicing.profile(model, images, labels, num_classes=3)
    slicing.slice(model, images, profile, engine="compiled")
    slicing.slice(model, images, profile, layers=["input"], engine="compiled")
    slicing.effective_path(model, images, engine="compiled")
    other = (labels + 1) % 3
    lancet.locate(model, images, images.flip(0), other)
    model = model.to(memory_format=torch.channels_last)  # as trained networks are kept: other loops, by layout
    for count in (1, len(images)):
        lancet.locate(model, images[:count], images.flip(0)[:count], other[:count])


if __name__ == "__main__":
    torch.set_num_threads(1)
    compile_ahead()
    sys.exit()
