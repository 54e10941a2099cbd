"""Small random networks from all known operations, in all ways of writing them; a seed gives the same network.

PYTHONPATH=.:tests python -m graph.fuzz --minutes 10 [--first 0]
"""

import argparse
import copy
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from slicing import reference
from torch import nn

from lib import lancet, slicing
from lib.dynamic.channels import sites
from lib.dynamic.scratch.build import masked, shrink
from lib.graph import Network
from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers
from lib.slicing.kinds import Graph

ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh]
CLASSES = 4


class Random(nn.Module):
    """A network of a few random steps.

    Attributes:
        steps: what forward does, in order; each a function of (network, tensor).
        words: the same, to read.
        folds: whether an image has several pieces in the batch somewhere.
    """

    def __init__(self, seed):
        super().__init__()
        self.draw = random.Random(seed)
        torch.manual_seed(seed)
        self.layers, self.steps, self.words, self.folds = nn.ModuleList(), [], [], False
        self.shape = (self.draw.choice([1, 2, 3]), self.draw.choice([5, 6, 8]), self.draw.choice([5, 6, 7]))
        x = torch.rand(2, *self.shape)
        for _ in range(self.draw.randint(2, 6)):
            make = self.draw.choice(MAKERS)
            step = make(self, x.shape)
            if step is None:
                continue
            with torch.no_grad():
                x = step(self, x.clone())
            self.steps.append(step)
            self.words.append(make.__name__)
        self.steps.append(self.draw.choice(HEADS)(self, x.shape))
        del self.draw

    def add(self, module):
        """Index of a new layer."""
        self.layers.append(module)
        return len(self.layers) - 1

    def forward(self, x):
        for step in self.steps:
            x = step(self, x)
        return x


def convolution(net, shape):
    channels = shape[1]
    groups = net.draw.choice([g for g in (1, 1, 2, channels) if channels % g == 0])
    out = groups * net.draw.choice([1, 2, 3])
    kernel = (net.draw.choice([1, 2, 3]), net.draw.choice([1, 3]))
    if any(n < k + 1 for n, k in zip(shape[2:], kernel, strict=True)):
        return None
    stride = net.draw.choice([1, 1, 2])
    layer = nn.Conv2d(channels, out, kernel, stride, net.draw.choice([0, 1]), 1, groups, net.draw.random() < 0.7)
    norm = net.draw.choice(
        [nn.BatchNorm2d(out), nn.BatchNorm2d(out), nn.Identity(), nn.InstanceNorm2d(out, affine=True)]
    )
    if isinstance(norm, nn.InstanceNorm2d) and layer(torch.zeros(1, *shape[1:]))[0, 0].numel() == 1:
        norm = nn.Identity()  # a single value has no deviation
    act = net.draw.choice(ACTIVATIONS)()
    at, n, a = net.add(layer), net.add(norm), net.add(act)
    return lambda net, x: net.layers[a](net.layers[n](net.layers[at](x)))


def transposed(net, shape):
    if max(shape[2:]) > 8 or min(shape[2:]) < 3:  # padding could leave nothing
        return None
    groups = net.draw.choice([g for g in (1, 2) if shape[1] % g == 0])
    kernel, stride = (net.draw.choice([1, 2, 3]), 2), net.draw.choice([1, 2, (2, 1), (1, 3)])
    dilation = net.draw.choice([1, (2, 1)])
    layer = nn.ConvTranspose2d(shape[1], 2 * groups, kernel, stride, net.draw.choice([0, 1]), 0, groups, True, dilation)
    at = net.add(layer)
    return lambda net, x: torch.relu(net.layers[at](x))


def pair_of_convolutions(net, shape):
    """A convolution whose channels only another one reads."""
    out = net.draw.choice([2, 3, 4])
    norm, act = net.draw.choice([nn.BatchNorm2d(out), nn.Identity()]), net.draw.choice(ACTIVATIONS[:7])()
    at, n, a, last = (net.add(m) for m in (nn.Conv2d(shape[1], out, 3, 1, 1), norm, act, nn.Conv2d(out, 3, 1)))
    return lambda net, x: net.layers[last](net.layers[a](net.layers[n](net.layers[at](x))))


def activation_in_place(net, shape):
    way = net.draw.choice(["method", "function", "module", "torch", "clamp"])
    at = net.add(nn.ReLU(inplace=True))

    def step(net, x):
        x = x + 0.1
        if way == "method":
            x.relu_()
        elif way == "function":
            F.relu(x, inplace=True)
        elif way == "module":
            net.layers[at](x)
        elif way == "torch":
            torch.relu_(x)
        else:
            x.clamp_(min=0)
        return x

    return step


def residual(net, shape):
    layer = net.add(nn.Conv2d(shape[1], shape[1], 3, padding=1))
    way = net.draw.choice(["plain", "add_", "iadd", "alias", "first"])

    def step(net, x):
        if way == "first":
            x = x - 0.2
            return x + net.layers[layer](F.relu(x, inplace=True))
        y = F.relu(net.layers[layer](x))
        if way == "plain":
            return y + x
        if way == "add_":
            y.add_(x)
            return y
        same = y
        y += x
        return same if way == "alias" else y

    return step


def concatenation(net, shape):
    layer = net.add(nn.Conv2d(shape[1], 2, 1))
    return lambda net, x: torch.cat([net.layers[layer](x), x], 1)


def chunk(net, shape):
    if shape[1] % 2:
        return None
    layer = net.add(nn.Conv2d(shape[1] // 2, shape[1] // 2, 3, padding=1))

    def step(net, x):
        left, right = x.chunk(2, 1)
        return torch.cat([right, net.layers[layer](left)], 1)

    return step


def shuffle(net, shape):
    if shape[1] % 2:
        return None

    def step(net, x):
        n, c, h, w = x.size()
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)

    return step


def maximum(net, shape):
    if min(shape[2:]) < 3:
        return None
    kernel, stride, pad = net.draw.choice([2, 3]), net.draw.choice([1, 2]), net.draw.choice([0, 1])
    return lambda net, x: F.max_pool2d(x, kernel, stride, pad)


def average(net, shape):
    if min(shape[2:]) < 3:
        return None
    at = net.add(net.draw.choice([nn.AvgPool2d(2, 1), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d((2, 3))]))
    return lambda net, x: net.layers[at](x)


def excitation(net, shape):
    at = net.add(nn.Conv2d(shape[1], shape[1], 1))
    gate = net.draw.choice([torch.sigmoid, F.hardsigmoid])
    spread = net.draw.random() < 0.5

    def step(net, x):
        weight = gate(net.layers[at](F.adaptive_avg_pool2d(x, 1)))
        return x * weight.expand_as(x) if spread else x * weight

    return step


def widened(net, shape):
    return lambda net, x: torch.cat([x, torch.zeros_like(x)], 1)


def scaled(net, shape):
    net.register_parameter(f"gamma{len(net.steps)}", nn.Parameter(torch.randn(shape[1], 1, 1)))
    name, turned = f"gamma{len(net.steps)}", net.draw.random() < 0.5
    return lambda net, x: (1 - x) * getattr(net, name) if turned else x * getattr(net, name)


def last_axis(net, shape):
    if shape[1] < 3:  # of one or two channels normalisation leaves a sign
        return None
    norm, layer = net.add(nn.LayerNorm(shape[1])), net.add(nn.Linear(shape[1], 3))
    return lambda net, x: net.layers[layer](net.layers[norm](x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def groups_in_batch(net, shape):
    if shape[1] % 2:
        return None
    at, spread = net.add(nn.Conv2d(shape[1] // 2, 2, 3, padding=1)), net.draw.random() < 0.5
    net.folds = True

    def step(net, x):
        n, c, h, w = x.shape
        if spread:
            x = x.reshape(n, 2, c // 2, h, w).transpose(0, 1).reshape(2 * n, c // 2, h, w)
            return torch.relu(net.layers[at](x)).view(2, n, 2, h, w).transpose(0, 1).reshape(n, 4, h, w)
        return torch.relu(net.layers[at](x.reshape(n * 2, c // 2, h, w))).reshape(n, 4, h, w)

    return step


def flat_head(net, shape):
    at = net.add(nn.Linear(shape[1] * shape[2] * shape[3], CLASSES))
    way = net.draw.choice(["flatten", "view", "method"])

    def step(net, x):
        if way == "view":
            return net.layers[at](x.contiguous().view(x.size(0), -1))
        return net.layers[at](torch.flatten(x, 1) if way == "flatten" else x.flatten(1))

    return step


def pooled_head(net, shape):
    at, way = net.add(nn.Linear(shape[1], CLASSES)), net.draw.choice(["mean", "size", "module"])

    def step(net, x):
        if way == "mean":
            return net.layers[at](x.mean((2, 3)))
        if way == "size":
            return net.layers[at](F.avg_pool2d(x, x.size()[2:]).flatten(1))
        return net.layers[at](F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2))

    return step


def token_head(net, shape):
    mix, at, first = net.add(nn.Linear(shape[1], 4)), net.add(nn.Linear(4, CLASSES)), net.draw.random() < 0.5
    net.folds = net.folds or first

    def step(net, x):
        if first:  # (tokens, N, channels)
            return net.layers[at](F.relu(net.layers[mix](x.flatten(2).permute(2, 0, 1))).mean(0))
        return net.layers[at](F.relu(net.layers[mix](x.flatten(2).transpose(1, 2))).mean(1))

    return step


MAKERS = [
    *(
        convolution,
        convolution,
        transposed,
        pair_of_convolutions,
        activation_in_place,
        residual,
        residual,
        concatenation,
        chunk,
        shuffle,
    ),
    *(maximum, average, excitation, scaled, widened, last_axis, groups_in_batch),
]
HEADS = [flat_head, pooled_head, token_head]


def built(seed):
    """A network whose normalisation has seen images and whose classes are about equally likely, and images."""
    net = Random(seed)
    images = torch.rand(6, *net.shape)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, -1, 1.5)
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(8)
        last.bias.sub_(net.eval()(images).mean(0))
    return net.eval(), images


def at_a_tie(net, images, known):
    """Whether a deviation from the mean is rounding noise, as of a neuron that is dead: its sign then says nothing."""
    graph = Graph(net)
    values, _ = graph.record(images, graph.means_needed())
    for name in graph.means_needed():
        off = (values[name] - known.mean(name)).abs()
        if bool(((off > 0) & (off < 1e-13 * values[name].abs().max())).any()):
            return True
    return False


def check(seed):
    """Compare every method with brute force on the network of a seed; what was compared, in words."""
    net, images = built(seed)
    done = ["read"]
    with torch.no_grad():
        wanted = net.double()(images.double())
        net.float()
    network = Network(net).verify(net, images)
    torch.testing.assert_close(network.record(images)[network.logits], wanted, rtol=1e-9, atol=1e-9)
    if float((wanted - wanted[:1]).abs().max()) < 1e-4:  # a dead network decides by rounding
        return [*done, "dead"]
    labels = wanted.argmax(1)
    known = slicing.profile(net, images, labels, CLASSES)
    ways = {"reference": "dataset"}  # few images: the mean of a class may be the image itself
    together = slicing.slice(net, images[:2], known, **ways)
    tied = at_a_tie(net, images[:2], known)
    for other in (
        slicing.slice(net, images[:2], known, engine="tensor", **ways),
        slicing.Slices.concatenate([slicing.slice(net, images[k : k + 1], known, **ways) for k in (0, 1)]),
    ):
        for layer, value in together.synapses.items():
            assert tied or torch.equal(other.synapses[layer], value), f"slices of {layer}"
    paths = slicing.effective_path(net, images[:2])
    other = slicing.effective_path(net, images[:2], engine="tensor", memory=1)
    for layer, value in paths.synapses.items():
        assert torch.equal(other.synapses[layer], value), f"paths of {layer}"
    if not net.folds and not any(word == "chunk" for word in net.words):
        graph = Graph(net)
        for found, profile in ((together, known), (paths, None)):
            synapses, _, _ = reference.slice_of(graph, images, 0, profile, "dataset")
            for layer, value in ({} if tied and profile else synapses).items():
                np.testing.assert_array_equal(found.synapses[layer][0].numpy(), value, err_msg=f"reference of {layer}")
        done.append("brute force, at a tie" if tied else "brute force")
    second = wanted.topk(2).indices[:, 1]
    try:
        votes = lancet.locate(net, images[:1], images[1:2], second[:1])
    except LancetError as problem:
        assert "called more than once" in str(problem) or "no error to locate" in str(problem), problem
        votes = {}
    for layer, found in votes.items():
        if bool(found.repaired[0]):
            changed = copy.deepcopy(net)
            with torch.no_grad():
                weight_layers(changed)[layer].weight.masked_fill_(found.counts > 0, 0)
                assert int(changed(images[:1]).argmax()) == int(second[0]), f"set of {layer}"
            done.append("zeroed")
    generator = torch.Generator().manual_seed(seed)
    keep = {name: torch.rand(site.channels, generator=generator) < 0.6 for name, site in sites(net).items()}
    keep = {name: mask for name, mask in keep.items() if mask.any() and not mask.all()}
    if keep:
        net.double()
        with torch.no_grad(), masked(net, keep):
            wanted = net(images.double())
        with torch.no_grad():
            torch.testing.assert_close(shrink(net, keep)(images.double()), wanted, rtol=1e-9, atol=1e-9)
        done.append("cut")
    return done


def main():
    """Check networks of one seed after another until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--first", type=int, default=0)
    chosen = parser.parse_args()
    end, seed, seen = time.monotonic() + 60 * chosen.minutes, chosen.first, {}
    while time.monotonic() < end:
        try:
            for word in check(seed):
                seen[word] = seen.get(word, 0) + 1
        except Exception as problem:
            print(f"seed {seed}, {Random(seed).words}: {type(problem).__name__}: {str(problem)[:400]}", flush=True)
        seed += 1
    print(f"networks {chosen.first} to {seed - 1}: {seen}")


if __name__ == "__main__":
    main()
