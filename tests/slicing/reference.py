"""The rules of NNSlicer and EffectivePath, one output neuron at a time in plain Python: what the fast ones must equal.

Written from the rule alone: it shares no code with lib.slicing but the recorded float64 values, which both read.
"""

import itertools
import math
import operator
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def select(v, theta, bar):
    """NNSlicer: positions of v that are kept."""
    if all(x == 0 for x in v):
        return []
    if 1 / len(v) >= 1 - theta:
        return [v.index(max(v))]
    total = math.fsum(v)
    order = sorted(range(len(v)), key=lambda i: -abs(v[i]))
    if abs(total) < abs(v[order[-1]]) or abs(total) < 1e-3 * abs(v[order[0]]):
        return []
    running = 0.0
    last = abs(v[order[-1]])
    for i in order:
        running += v[i]
        if abs(running - total) < theta * abs(total):
            last = abs(v[i])
            break
    return [i for i in range(len(v)) if abs(v[i]) > last * (1 - bar)]


def select_share(v, share):
    """EffectivePath: positions of v that are kept."""
    if all(x == 0 for x in v):
        return []
    total = math.fsum(v)
    if total <= 0:
        return [v.index(max(v))]
    running, kept = 0.0, []
    for i in sorted(range(len(v)), key=lambda i: -v[i]):
        kept.append(i)
        running += v[i]
        if running >= share * total:
            break
    return kept


# Operations that move whole axes: from their arguments to the axis of the input that each axis of the output is.
MOVES = {
    "permute": lambda args, count: args[0] if isinstance(args[0], (tuple, list)) else args,
    torch.permute: lambda args, count: args[0],
    "transpose": lambda args, count: swapped(count, *args),
    torch.transpose: lambda args, count: swapped(count, *args),
}


def swapped(count, one, other):
    axes = list(range(count))
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def sign(x):
    return (x > 0) - (x < 0)


class Reference:
    """Slices of one input.

    Args:
        graph: lib.slicing.kinds.Graph of the network: its operations in order, and the modules.
        values: operation -> float64 array of one input (with the batch dimension).
        means: operation -> float64 array to centre by; None: EffectivePath.
    """

    def __init__(self, graph, values, means=None, theta=0.2, bar=0.01, sizes=None):
        self.graph, self.theta, self.bar, self.means = graph, theta, bar, means
        self.values = {name: np.asarray(value)[0] for name, value in values.items()}
        self.contributions = defaultdict(lambda: defaultdict(int))  # operation -> position -> CONTRIB
        self.synapses = defaultdict(lambda: defaultdict(int))  # layer -> position in the weight -> contribution
        self.neurons = {}
        self.visits, self.sizes = 0, sizes or {}

    def centred(self, name):
        return self.values[name] if self.means is None else self.values[name] - np.asarray(self.means[name])

    def local(self, v, dy, contribution):
        """Kept position -> local contribution."""
        self.visits += len(v)
        if self.means is None:
            return dict.fromkeys(select_share([-x for x in v] if dy < 0 else v, self.theta), 1)
        kept = select(v, self.theta, self.bar)
        return {i: sign(v[i]) * sign(dy) * sign(contribution) for i in kept}

    def add(self, table, position, value):
        table[position] = 1 if self.means is None else table[position] + value

    def run(self, start):
        """start: (operation, position) of the criterion's neurons."""
        for name, position in start:
            self.contributions[name][position] = 1
        for op in reversed(self.graph.operations.values()):
            found = {k: c for k, c in self.contributions[op.name].items() if c != 0}
            self.neurons[op.name] = found
            if op.kind not in ("input", "output", "value") and found:
                getattr(self, {"add": "add_", "pass": "pass_"}.get(op.kind, op.kind))(op, found)
        return self

    def give(self, name, position, value):
        if value:
            self.add(self.contributions[name], position, value)

    def weighted(self, op, place_of, taps_of, position=lambda filter_, tap: (filter_, *tap)):
        """place_of(out): its filter and what it sees; taps_of(what it sees): each tap in the weight and the input;
        position(filter, tap): where that weight is."""
        x, dy = self.centred(op.inputs[0]), self.centred(op.name)
        weight = op.module.weight.detach().numpy()
        seen = {}  # what outputs of one place share
        for out, contribution in self.contributions[op.name].items():
            if contribution == 0:
                continue
            filter_, where = place_of(out)
            if where not in seen:
                taps = taps_of(where)
                seen[where] = [w for w, _ in taps], [i for _, i in taps], [float(x[i]) for _, i in taps]
            in_weight, in_input, values = seen[where]
            if not values:
                continue
            places = [position(filter_, tap) for tap in in_weight]
            v = [float(weight[w]) * value for w, value in zip(places, values, strict=True)]
            for k, value in self.local(v, float(dy[out]), contribution).items():
                if value:
                    self.add(self.synapses[op.layer], places[k], value)
                    self.give(op.inputs[0], in_input[k], value)

    def linear(self, op, found):
        inputs = range(op.module.in_features)
        self.weighted(op, lambda out: (out[-1], out[:-1]), lambda rest: [((i,), (*rest, i)) for i in inputs])

    def convolution(self, op, found):
        layer = op.module
        if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
            return self.transposed(op)
        if isinstance(layer, nn.Conv1d):
            return self.along(op)
        _, height, width = self.values[op.inputs[0]].shape
        kh, kw = layer.kernel_size
        pad = layer.padding
        if pad == "valid":
            pad = (0, 0)
        elif pad == "same":
            pad = [d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        group_in, group_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups

        def taps(where):
            group, r, c = where
            found = []
            for i in range(group_in):
                for a in range(kh):
                    for b in range(kw):
                        h = r * layer.stride[0] - pad[0] + a * layer.dilation[0]
                        w = c * layer.stride[1] - pad[1] + b * layer.dilation[1]
                        if 0 <= h < height and 0 <= w < width:
                            found.append(((i, a, b), (group * group_in + i, h, w)))
            return found

        self.weighted(op, lambda out: (out[0], (out[0] // group_out, out[1], out[2])), taps)

    def transposed(self, op):
        """A transposed convolution: tap i of a kernel takes input h to output h * stride - padding + i * dilation."""
        layer, sides = op.module, self.values[op.inputs[0]].shape[1:]
        group_in, group_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        each = list(zip(layer.stride, layer.padding, layer.dilation, strict=True))

        def reached(at, tap):
            return tuple(h * s - p + i * d for h, i, (s, p, d) in zip(at, tap, each, strict=True))

        def taps(where):
            group, *place = where
            return [
                ((channel, *tap), (channel, *at))
                for channel in range(group * group_in, (group + 1) * group_in)
                for tap in itertools.product(*map(range, layer.kernel_size))
                for at in itertools.product(*map(range, sides))
                if reached(at, tap) == tuple(place)
            ]

        self.weighted(
            op,
            lambda out: (out[0], (out[0] // group_out, *out[1:])),
            taps,
            lambda filter_, tap: (tap[0], filter_ % group_out, *tap[1:]),
        )

    def along(self, op):
        """A convolution along one axis."""
        layer, length = op.module, self.values[op.inputs[0]].shape[1]

        def taps(place):
            start = place * layer.stride[0] - layer.padding[0]
            reached = [(a, start + a * layer.dilation[0]) for a in range(layer.kernel_size[0])]
            return [((i, a), (i, w)) for i in range(layer.in_channels) for a, w in reached if 0 <= w < length]

        self.weighted(op, lambda out: (out[0], out[1]), taps)

    def windows(self, op):
        """Output position -> input positions of its window."""
        shape, out = self.values[op.inputs[0]].shape, self.values[op.name].shape
        layer = op.module
        if "1d" in (getattr(op.node.target, "__name__", "") if layer is None else type(layer).__name__):
            return self.windows_along(op)
        by_size = layer is None and op.node.target in (F.adaptive_avg_pool2d, "mean")
        if by_size or isinstance(layer, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
            sides = out[1:] if len(out) == 3 else (1, 1)
            ranges = [
                [range(i * n // k, -(-(i + 1) * n // k)) for i in range(k)]
                for n, k in zip(shape[1:], sides, strict=True)
            ]
        else:
            two = lambda x: tuple(x) if isinstance(x, (tuple, list)) else (x, x)  # noqa: E731
            if layer is None:
                args, named = self.graph.arguments(op, self.sizes)
                given = {**named, **dict(zip(["input", "kernel_size", "stride", "padding"], args, strict=False))}
                kernel, pad = two(given["kernel_size"]), two(given.get("padding", 0))
                stride, dilation = two(given.get("stride") or kernel), two(given.get("dilation", 1))
            else:
                kernel, stride, pad = (two(x) for x in (layer.kernel_size, layer.stride, layer.padding))
                dilation = two(getattr(layer, "dilation", 1))
            ranges = []
            for axis in (0, 1):
                starts = [i * stride[axis] - pad[axis] for i in range(out[axis + 1])]
                ranges.append(
                    [
                        [
                            s + t * dilation[axis]
                            for t in range(kernel[axis])
                            if 0 <= s + t * dilation[axis] < shape[axis + 1]
                        ]
                        for s in starts
                    ]
                )
        return lambda c, r, q: [(c, h, w) for h in ranges[0][r] for w in ranges[1][q]]

    def windows_along(self, op):
        """The same along one axis."""
        length, count = self.values[op.inputs[0]].shape[1], self.values[op.name].shape[1]
        layer = op.module
        if isinstance(layer, (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)):
            return lambda c, q: [(c, i) for i in range(q * length // count, -(-(q + 1) * length // count))]
        if layer is None:
            names = ["input", "kernel_size", "stride", "padding", "dilation"]
            given = {**dict(zip(names, op.node.args, strict=False)), **op.node.kwargs}
        else:
            given = vars(layer)
        one = {key: value[0] if isinstance(value, tuple) else value for key, value in given.items()}
        kernel, pad, dilation = one["kernel_size"], one.get("padding", 0), one.get("dilation", 1)
        stride = one.get("stride") or kernel

        def window(c, q):
            reached = [q * stride - pad + i * dilation for i in range(kernel)]
            return [(c, i) for i in reached if 0 <= i < length]

        return window

    def average(self, op, found):
        x, dy = self.centred(op.inputs[0]), self.centred(op.name)
        over_one = op.node.target == "mean" and isinstance(op.node.args[1], int)
        windows = None if over_one else self.windows(op)
        for out, contribution in found.items():
            if over_one:
                axis = op.node.args[1] - 1
                place = [(*out[:axis], i, *out[axis:]) for i in range(x.shape[axis])]
            else:
                place = windows(out[0], 0, 0) if len(out) == 1 else windows(*out)
            for k, value in self.local([float(x[i]) for i in place], float(dy[out]), contribution).items():
                self.give(op.inputs[0], place[k], value)

    def maximum(self, op, found):
        x = self.values[op.inputs[0]]
        over_axes = getattr(op.node.target, "__name__", op.node.target) == "amax"  # over the last axes of all
        windows = None if over_axes else self.windows(op)
        for out, contribution in found.items():
            if over_axes:
                rest = x.shape[len(out) :]
                place = [(*out, *inner) for inner in np.ndindex(*rest)]
            else:
                place = windows(*out)
            top = max(x[i] for i in place)
            for i in place:
                if x[i] == top:
                    self.give(op.inputs[0], i, contribution)

    def add_(self, op, found):
        branches, dy = [self.centred(name) for name in op.inputs], self.centred(op.name)
        for out, contribution in found.items():
            v = [float(branch[out]) for branch in branches]
            for k, value in self.local(v, float(dy[out]), contribution).items():
                self.give(op.inputs[k], out, value)

    def concatenate(self, op, found):
        if op.node.target is torch.stack:  # along a new axis
            axis = op.node.args[1] - 1
            for out, contribution in found.items():
                self.give(op.inputs[out[axis]], (*out[:axis], *out[axis + 1 :]), contribution)
            return
        parts = [self.values[name] if name in self.values else self.sizes[name][0] for name in op.inputs]
        edges = np.cumsum([0, *(part.shape[0] for part in parts)])
        for out, contribution in found.items():
            part = int(np.searchsorted(edges, out[0], side="right")) - 1
            self.give(op.inputs[part], (out[0] - int(edges[part]), *out[1:]), contribution)

    def rearrange(self, op, found):
        shape, out = self.values[op.inputs[0]].shape, self.values[op.name].shape
        for position, contribution in found.items():
            if op.node.target is F.pad or isinstance(op.module, nn.ZeroPad2d):
                pad = op.node.args[1] if op.module is None else (*op.module.padding, 0, 0)
                back = tuple(i - pad[2 * k] for k, i in zip(range(len(out) - 1, -1, -1), position, strict=True))
                if not all(0 <= i < n for i, n in zip(back, shape, strict=True)):
                    continue
            elif (
                op.node.op == "call_method" and op.node.target in ("view", "reshape", "flatten")
            ) or op.module is not None:
                assert math.prod(shape) == math.prod(out), "a reshape"
                back = tuple(int(i) for i in np.unravel_index(np.ravel_multi_index(position, out), shape))
            elif op.node.target == "expand_as":
                back = tuple(0 if n == 1 else i for i, n in zip(position, shape, strict=True))
            elif op.node.target in MOVES:
                axes = [axis % (len(shape) + 1) - 1 for axis in MOVES[op.node.target](op.node.args[1:], len(shape) + 1)]
                back = tuple(position[[a for a in axes if a >= 0].index(axis)] for axis in range(len(shape)))
            elif op.node.target is operator.getitem and isinstance(op.node.args[1], int):  # a part of a chunk
                axis, parts = op.node.args[0].args[2] - 1, op.node.args[0].args[1]
                size = -(-shape[axis] // parts)
                back = tuple(i + size * op.node.args[1] * (k == axis) for k, i in enumerate(position))
            elif op.node.target is operator.getitem:
                parts = [*op.node.args[1][1:], *[slice(None)] * len(position)]
                back = tuple((p.start or 0) + i * (p.step or 1) for i, p in zip(position, parts, strict=False))
            else:
                assert math.prod(shape) == math.prod(out), "a reshape"
                flat = np.ravel_multi_index(position, out)
                back = tuple(int(i) for i in np.unravel_index(flat, shape))
            self.give(op.inputs[0], back, contribution)

    def multiply(self, op, found):
        """Both factors are given what the product has."""
        for name in op.inputs:
            shape = self.values[name].shape
            for out, contribution in found.items():
                self.give(name, tuple(0 if n == 1 else i for i, n in zip(out, shape, strict=True)), contribution)

    def pass_(self, op, found):
        for position, contribution in found.items():
            self.give(op.inputs[0], position, contribution)


def slice_of(graph, images, index, profile=None, reference="predicted", theta=None, bar=0.01, start=None):
    """The reference's slice of one of several images: (synapses by layer, neurons by operation), dense int arrays."""
    names = [op.name for op in graph.operations.values() if op.kind not in ("value", "output")]
    values, shapes, sizes = graph.recorded(images[index : index + 1], names)
    predicted = values[graph.output].argmax(1)
    means = None
    if profile is not None:
        means = {name: profile.mean(name, reference, predicted)[0].numpy() for name in graph.means_needed()}
    theta = theta if theta is not None else (0.5 if profile is None else 0.2)
    run = Reference(graph, {k: v.numpy() for k, v in values.items()}, means, theta, bar, sizes)
    start = [(graph.output, (int(predicted),))] if start is None else start
    run.run(start)
    synapses = {}
    for layer, module in graph.weighted().items():
        dense = np.zeros(module.weight.shape, np.int32)
        for position, value in run.synapses[layer].items():
            dense[position] = value
        synapses[layer] = dense
    neurons = {}
    for name, found in run.neurons.items():
        if name in shapes:
            dense = np.zeros(shapes[name][1:], np.int32)
            for position, value in found.items():
                dense[position] = value
            neurons[name] = dense
    return synapses, neurons, run
