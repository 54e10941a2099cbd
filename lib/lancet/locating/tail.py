"""A network that can be run again from one of its layers on; error-inducing features, and what weights do to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lib import graph
from lib.graph import operations as table
from lib.graph.layout import PLAIN, Layout
from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers

_PASSED = ("norm", "activation", "same", "average", "maximum")  # what a layer's feature is taken behind


@dataclass(frozen=True)
class Point:
    """Where a layer stands in the traced network.

    Attributes:
        layer: dotted name, as in `named_modules()`.
        module: the Conv2d or Linear itself.
        node, source: the layer's call, and the value it reads.
        chain: calls from behind the layer to its feature, in order; empty where the layer's output is the feature.
        feature: the value that is compared between the images of a pair.
        behind: every call that depends on the layer, in order, and the sizes that they are given.
        beside: tensors from before the layer that these calls read too.
    """

    layer: str
    module: nn.Conv2d | nn.Linear
    node: fx.Node
    source: fx.Node
    chain: tuple[fx.Node, ...]
    feature: fx.Node
    behind: tuple[fx.Node, ...]
    beside: tuple[fx.Node, ...]


class Network(graph.Network):
    """A copy of a network, in evaluation mode, as a list of calls whose values can be kept and put back.

    Args:
        model: any module from images (N, C, H, W) to logits (N, classes) that torch.fx can trace.
        dtype: of the copy.
    Raises: LancetError where it cannot be traced.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype, LancetError, channels_last=True)

    def points(self, layers: Iterable[str] | None = None) -> list[Point]:
        """The named Conv2d and Linear layers, or all, in the order of the forward pass.

        Raises: LancetError for a name that is no such layer, or one that is called more than once or not at all.
        """
        known = weight_layers(self.traced)
        wanted = list(known) if layers is None else [layers] if isinstance(layers, str) else list(layers)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise LancetError(f"layers names {unknown}: the Conv2d and Linear layers are {list(known)}")
        calls = {name: [node for node in self.nodes if node.target == name and _is_module(node)] for name in wanted}
        several = [name for name, nodes in calls.items() if len(nodes) > 1 or (nodes and self._is_shared(name))]
        if several:
            raise LancetError(
                f"layers {several} are called more than once in a forward pass, or share their weights: their features "
                "are not one tensor; name the other layers with layers="
            )
        unused = [name for name, nodes in calls.items() if not nodes]
        if layers is not None and unused:
            raise LancetError(f"layers {unused} are not called as modules in a forward pass: name others")
        found = [self._point(name, nodes[0]) for name, nodes in calls.items() if nodes]
        return sorted(found, key=lambda point: self.place[point.node])

    def _is_shared(self, name: str) -> bool:
        """Whether a layer's weights are read at another place of the network too."""
        weight = self.modules[name].weight
        read = [self.call(node, (), {}) for node in self.nodes if node.op == "get_attr"]
        others = {str(node.target) for node in self.nodes if node.op == "call_module"} - {name}
        read += [parameter for other in others for parameter in self.modules[other].parameters()]
        return any(value is weight for value in read)

    def _point(self, name: str, node: fx.Node) -> Point:
        chain: list[fx.Node] = []
        last = node
        while len(last.users) == 1:
            follower = next(iter(last.users))
            if self._is_sum(follower):
                chain.append(follower)
                break
            if not self._is_passed(follower):
                break
            chain.append(follower)
            last = follower
        behind, beside = self._behind(node)
        source, module = node.args[0], self.modules[name]
        assert isinstance(source, fx.Node) and isinstance(module, (nn.Conv2d, nn.Linear))
        feature = chain[-1] if chain else node
        return Point(name, module, node, source, tuple(chain), feature, behind, beside)

    def _behind(self, node: fx.Node) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
        """The calls that depend on a layer, with the sizes they are given, and the tensors from before it."""
        reached = {node}
        for other in self.nodes[self.place[node] + 1 :]:
            if any(value in reached for value in other.all_input_nodes):
                reached.add(other)
        beside: dict[fx.Node, None] = {}
        waiting = list(reached - {node})
        while waiting:  # sizes, and tuples of tensors, are made again for the rows at hand
            for value in waiting.pop().all_input_nodes:
                if value in reached:
                    continue
                if value.name in self.layouts or not self.layouts:
                    beside[value] = None
                else:
                    reached.add(value)
                    waiting.append(value)
        reached.discard(node)
        return tuple(sorted(reached, key=self.place.__getitem__)), tuple(beside)

    def _is_passed(self, node: fx.Node) -> bool:
        kind = table.kind(node, self.modules)
        two = kind in ("average", "maximum") and (_is_module(node) or getattr(node.target, "__name__", "") != "mean")
        return node in self.place and kind in _PASSED and (kind not in ("average", "maximum") or two)

    def _is_sum(self, node: fx.Node) -> bool:
        tensors = [value for value in node.args if isinstance(value, fx.Node)]
        return node in self.place and table.kind(node, self.modules) == "add" and len(tensors) == 2

    def logits_of(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.record(images)[self.logits]

    def rest(self, point: Point, outputs: Tensor, values: Mapping[fx.Node, Any], rows: Tensor) -> Tensor:
        """Logits of the network with other values in place of a layer's output.

        Args:
            point: the layer.
            outputs: what stands in its place for R rows, laid out as the network does.
            values: from `record`, of N images.
            rows: int64 (R,): which of the N images each row is.
        Returns: (R, classes).
        """
        known = {node: self.take(node, values[node], rows) for node in point.beside}
        known[point.node] = outputs
        return self.run(point.behind, known)[self.logits]


def as_columns(module: nn.Conv2d | nn.Linear, layout: Layout, outputs: Tensor) -> Tensor:
    """A layer's outputs, laid out as the network does, as (K, O, L): L places, of all pieces of an image."""
    rows = layout.rows(outputs)
    if isinstance(module, nn.Linear):
        return rows.reshape(len(rows), -1, rows.shape[-1]).transpose(1, 2).contiguous()
    if layout.pieces > 1:
        return rows.transpose(1, 2).flatten(2)
    return rows.flatten(2)


def as_outputs(module: nn.Conv2d | nn.Linear, layout: Layout, columns: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_columns`, of R images; `like` is a layer's output, whose layout is taken on."""
    shape = layout.rows(like).shape[1:]
    if isinstance(module, nn.Linear):
        return layout.back(columns.transpose(1, 2).reshape(len(columns), *shape))
    if layout.pieces > 1:  # (R, O, pieces, H, W) back to pieces first
        columns = columns.reshape(len(columns), shape[1], shape[0], *shape[2:]).transpose(1, 2)
    outputs = layout.back(columns.reshape(len(columns), *shape))
    return outputs.contiguous(memory_format=torch.channels_last) if outputs.ndim == 4 else outputs


def _is_module(node: fx.Node) -> bool:
    return node.op == "call_module"


FORMULAS = ("constant", "both")
ALPHA = 0.5  # what is added to the gradient's share, so that a difference of features never counts for nothing


def columns(module: nn.Conv2d | nn.Linear, inputs: Tensor, layout: Layout = PLAIN) -> Tensor:
    """What a layer's weights are multiplied with.

    Args:
        inputs: (K, C, H, W) of a convolution; (K, ..., I) of a Linear.
        layout: where the K images lie in it.
    Returns: (K, G, J, L): for each group, J inputs of an output and L places where they are read;
        `weight.view(G, O / G, J) @ columns` is the layer's output without its bias.
    """
    if isinstance(module, nn.Linear):
        inputs = layout.rows(inputs)
        return inputs.reshape(len(inputs), -1, inputs.shape[-1]).transpose(1, 2)[:, None]
    if module.padding_mode != "zeros" or module.padding == "same":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        inputs, padding = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode), (0, 0)
    else:
        padding = (0, 0) if module.padding == "valid" else module.padding  # type: ignore[assignment]
    unfolded = F.unfold(inputs, module.kernel_size, module.dilation, padding, module.stride)
    read = unfolded.view(len(inputs), module.groups, -1, unfolded.shape[-1])
    if layout.pieces == 1:
        return read
    read = layout.rows(read).movedim(1, 3)  # (K, G, J, pieces, L)
    return read.flatten(3)


def error_features(
    network: Network,
    points: Sequence[Point],
    values: Mapping[fx.Node, Tensor],
    others: Mapping[fx.Node, Tensor],
    labels: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The error-inducing feature of each layer, and the weights that the gradient gives to the difference.

    EI = df (G / max G + 0.5) with df = f(x) - f(x') and G = |d CE / d f| at f(x). Where a network has paths around
    the feature, they carry the values of x.

    Args:
        network: in float64.
        points: the layers.
        values, others: what `network.record` gives for the wrong images x and for their companions x'.
        labels: int64 (K,), the true ones.
    Returns: layer -> (EI, G / max G + 0.5), each (K, *feature.shape), images first.

    Source: Zhao et al. 2021, section on error-inducing features.
    """
    behind = {node for point in points for node in (point.node, *point.behind)}
    with torch.enable_grad():  # what no layer changes is not computed again
        known = {node: value for node, value in values.items() if node not in behind}
        for point in points:
            if point.source in known:
                known[point.source] = known[point.source].detach().requires_grad_()
        known = network.run([node for node in network.nodes if node in behind], known)
        loss = F.cross_entropy(known[network.logits], labels, reduction="sum")
        features = list(dict.fromkeys(point.feature for point in points))
        gradients = dict(zip(features, torch.autograd.grad(loss, [known[node] for node in features]), strict=True))
    found = {}
    for point in points:
        layout = network.layout(point.feature)
        strength = layout.rows(gradients[point.feature]).abs().flatten(1)
        top = strength.amax(1, keepdim=True)
        emphasis = strength / torch.where(top > 0, top, 1) + ALPHA
        difference = layout.rows(values[point.feature]) - layout.rows(others[point.feature])
        emphasis = emphasis.view_as(difference)
        found[point.layer] = (difference * emphasis, emphasis)
    return found


def importance(
    network: Network,
    point: Point,
    values: Mapping[fx.Node, Tensor],
    others: Mapping[fx.Node, Tensor],
    feature: Tensor,
    emphasis: Tensor,
    formula: str = "constant",
    signed: bool = False,
) -> Tensor:
    """How much each weight of a layer contributes to the error-inducing feature, of each pair.

    IV(w) = |d ||EI||_2 / d w|; G is held fixed.

    Args:
        values, others: what `network.record` gives for x and x'.
        feature, emphasis: the layer's, from `error_features`.
        formula: "constant" holds f(x') fixed, as the released code does; "both" differentiates it too.
        signed: max(0, w d||EI||/dw) instead: only weights whose removal makes the feature smaller. Ours.
    Returns: float (K, *weight.shape), never negative.

    Source: Zhao et al. 2021, section on evaluating neurons.
    """
    norm = feature.flatten(1).norm(dim=1).clamp_min(torch.finfo(feature.dtype).tiny)
    pull = feature * emphasis / norm.view(-1, *[1] * (feature.ndim - 1))
    found = _weight_gradient(network, point, values, pull)
    if formula == "both":
        found = found - _weight_gradient(network, point, others, pull)
    return (found * point.module.weight).clamp_min_(0) if signed else found.abs_()


def _weight_gradient(network: Network, point: Point, values: Mapping[fx.Node, Tensor], pull: Tensor) -> Tensor:
    """d (pull . feature) / d weight, of each image; what reaches the feature around the layer is fixed."""
    outputs = values[point.node]
    pull = network.layout(point.feature).back(pull)
    if point.chain:
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            known = {node: value for node, value in values.items() if node not in point.chain}
            known[point.node] = outputs
            reached = network.run(point.chain, known)[point.feature]
            (pull,) = torch.autograd.grad(reached, outputs, pull)
    module = point.module
    read = columns(module, values[point.source], network.layout(point.source))
    pull = as_columns(module, network.layout(point.node), pull).reshape(len(read), read.shape[1], -1, read.shape[-1])
    return (pull @ read.transpose(2, 3)).view(len(pull), *module.weight.shape)
