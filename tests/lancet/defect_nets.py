"""Hand-made networks whose errors have a known place."""

import torch
from torch import nn


class SharpSpot(nn.Module):
    """Class 1 where the image has a sharp spot anywhere, else class 0: the largest response of a Laplacian."""

    def __init__(self, threshold=2.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(1, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None])
            self.fc.weight.copy_(torch.tensor([[0.0], [4.0]]))
            self.fc.bias.copy_(torch.tensor([threshold, 0.0]))

    def forward(self, x):
        return self.fc(self.dropout(self.flatten(self.pool(self.relu(self.conv(x))))))


def spotted(count=3, side=16):
    """Smooth images with one bright pixel each, and its places (row, column)."""
    ramp = torch.linspace(0.1, 0.4, side)
    images = ramp.expand(count, 1, side, side).clone()
    places = [(4 + 3 * k, 11 - 3 * k) for k in range(count)]
    for k, (row, column) in enumerate(places):
        images[k, 0, row, column] = 1.0
    return images, places


class Cornered(nn.Module):
    """Class 0 where the left is brighter, class 1 where the right is; a bright corner pixel makes it answer 0."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(64, 3)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(3, 2)
        left = torch.zeros(8, 8)
        left[2:, :4] = 1
        corner = torch.zeros(8, 8)
        corner[0, 0] = 20
        with torch.no_grad():
            self.fc1.weight.copy_(torch.stack([left, left.flip(1), corner]).flatten(1))
            self.fc1.bias.copy_(torch.tensor([0.0, 0.0, -10.0]))
            self.fc2.weight.copy_(torch.tensor([[1.0, 0.0, 10.0], [0.0, 1.0, 0.0]]))
            self.fc2.bias.zero_()

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(self.flatten(x))))


def sides(count=40, seed=0):
    """Images (count, 1, 8, 8), bright on one side by turns, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.1 * torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 0, :, 2:, :4] += 0.5
    images[labels == 1, :, 2:, 4:] += 0.5
    return images, labels


def stamped(images):
    """The images with the corner pixel on."""
    images = images.clone()
    images[:, :, 0, 0] = 1
    return images
