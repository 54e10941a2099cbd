"""A network that can be run again from one of its layers on: what lies before a layer is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lib import graph
from lib.graph import Layout
from lib.graph import operations as table
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
