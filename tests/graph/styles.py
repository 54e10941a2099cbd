"""The same small network written in the ways that people write networks, beside the plain one with equal weights."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

SHAPE, CLASSES = (2, 8, 8), 5


class Plain(nn.Module):
    """A stem, a residual block, a pool, a linear layer."""

    def __init__(self):
        super().__init__()
        self.c0, self.c1, self.c2 = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.bn, self.relu, self.fc = nn.BatchNorm2d(6), nn.ReLU(), nn.Linear(24, CLASSES)

    def forward(self, x):
        x = torch.relu(self.bn(self.c0(x)))
        x = torch.relu(self.c2(torch.relu(self.c1(x))) + x)
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Statement(Plain):
    def forward(self, x):
        x = self.bn(self.c0(x))
        x.relu_()
        out = self.c1(x)
        F.relu(out, inplace=True)
        out = self.c2(out)
        out.add_(x)
        torch.relu_(out)
        return self.fc(F.adaptive_avg_pool2d(out, 2).flatten(1))


class Shared(Plain):
    """One ReLU in place for all, called as a statement."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.bn(self.c0(x))
        self.relu(x)
        y = self.c1(x)
        self.relu(y)
        y = self.c2(y) + x
        self.relu(y)
        return self.fc(F.adaptive_avg_pool2d(y, 2).flatten(1))


class Alias(Plain):
    """Two names of one tensor."""

    def forward(self, x):
        x = torch.relu(self.bn(self.c0(x)))
        y = self.c2(torch.relu(self.c1(x)))
        same = y
        y += x
        same.clamp_(min=0)
        return self.fc(F.adaptive_avg_pool2d(y, 2).flatten(1))


class First(Plain):
    """An activation in place that comes first in a branch, and so changes the other branch too."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), self.c1, nn.ReLU(inplace=True), self.c2)

    def forward(self, x):
        x = self.bn(self.c0(x))
        return self.fc(F.adaptive_avg_pool2d(torch.relu(x + self.branch(x)), 2).flatten(1))


class Sizes(Plain):
    """Sizes read from tensors."""

    def forward(self, x):
        x = F.relu(self.bn(self.c0(x)))
        x = F.relu(self.c2(F.relu(self.c1(x))).add(x))
        x = F.avg_pool2d(x, x.size()[3] // 2, stride=(x.shape[2] // 2, x.size(-1) // 2))
        n, c = x.shape[:2]
        return self.fc(x.view(n, c * 4))


class Assigned(Plain):
    """A tensor filled bit by bit."""

    def forward(self, x):
        x = torch.relu(self.bn(self.c0(x)))
        out = self.c2(torch.relu(self.c1(x)))
        out[:] = torch.relu(out + x)
        return self.fc(F.adaptive_avg_pool2d(out, 2).flatten(1))


class Tokens(nn.Module):
    """Patches as tokens, (N, T, C)."""

    def __init__(self):
        super().__init__()
        self.patch, self.mix, self.fc = nn.Conv2d(2, 6, 4, 4), nn.Linear(6, 6), nn.Linear(24, CLASSES)

    def forward(self, x):
        tokens = F.relu(self.patch(x)).flatten(2).transpose(1, 2)
        return self.fc(F.relu(self.mix(tokens)).flatten(1))


class SequenceFirst(Tokens):
    def forward(self, x):
        tokens = F.relu(self.patch(x)).flatten(2).permute(2, 0, 1)
        return self.fc(F.relu(self.mix(tokens)).permute(1, 0, 2).flatten(1))


class TokensInBatch(Tokens):
    """All tokens of all images in one dimension, those of an image side by side."""

    def forward(self, x):
        tokens = F.relu(self.patch(x)).flatten(2).transpose(1, 2)
        n, t, c = tokens.shape
        return self.fc(F.relu(self.mix(tokens.reshape(n * t, c))).reshape(n, t * c))


class TokensSpread(Tokens):
    """All tokens of all images in one dimension, the first of every image first."""

    def forward(self, x):
        tokens = F.relu(self.patch(x)).flatten(2).permute(2, 0, 1)
        t, n, c = tokens.shape
        return self.fc(F.relu(self.mix(tokens.reshape(t * n, c))).reshape(t, n, c).transpose(0, 1).reshape(n, t * c))


class Grouped(nn.Module):
    """Two groups of channels with one set of weights, written as two calls of the layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(torch.cat([self.b(x[:, :4]), self.b(x[:, 4:])], 1))
        return self.fc(x.mean((2, 3)))


class GroupsInBatch(Grouped):
    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        x = F.relu(self.b(x.reshape(n * 2, c // 2, h, w))).reshape(n, c, h, w)
        return self.fc(x.mean((2, 3)))


class GroupsSpread(Grouped):
    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, 4, h, w).transpose(0, 1).reshape(2 * n, 4, h, w)
        x = F.relu(self.b(x)).view(2, n, 4, h, w).transpose(0, 1).reshape(n, c, h, w)
        return self.fc(x.mean((2, 3)))


STYLES = {
    "statements in place": (Plain, Statement),
    "a shared activation in place": (Plain, Shared),
    "two names of a tensor": (Plain, Alias),
    "in place first in a branch": (Plain, First),
    "sizes read from tensors": (Plain, Sizes),
    "sequence first": (Tokens, SequenceFirst),
    "tokens in the batch": (Tokens, TokensInBatch),
    "tokens spread in the batch": (Tokens, TokensSpread),
    "groups in the batch": (Grouped, GroupsInBatch),
    "groups spread in the batch": (Grouped, GroupsSpread),
}

PARAMETRISED = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "pruned twice": lambda layer: (
        prune.random_unstructured(layer, "weight", 0.2),
        prune.l1_unstructured(layer, "weight", 0.3),
    ),
    "weight norm": parametrizations.weight_norm,
    "weight norm by a hook": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": spectral_norm,
}


def settled(model, seed=0):
    """Normalisation that has seen images, and classes that are equally likely."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(32, *SHAPE))
        model.eval().fc.weight.mul_(10)
        model.fc.bias.sub_(model(torch.rand(200, *SHAPE)).mean(0))
    return model.requires_grad_()


def pair(style, seed=0):
    """The plain network and the one in that style, with equal weights."""
    plain, other = STYLES[style]
    torch.manual_seed(seed)
    plain = settled(plain(), seed)
    other = other()
    other.load_state_dict(plain.state_dict(), strict=False)
    if isinstance(other, First):
        other.c1.load_state_dict(plain.c1.state_dict())
        other.c2.load_state_dict(plain.c2.state_dict())
    return plain, other.eval()


def images(count, seed=1):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
