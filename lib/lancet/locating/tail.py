"""A traced network that can be run again from one of its layers on: what lies before a layer is computed once."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers

# What a layer's feature is taken behind: normalisation, activation, pooling.
_PASSED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Hardswish),
    *(nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
_PASSED_CALLS = {
    *(F.relu, torch.relu, F.relu6, F.leaky_relu, F.silu, F.gelu, F.elu, F.hardswish, torch.sigmoid, torch.tanh),
    *(F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d),
    *("relu", "relu_", "sigmoid", "tanh"),
}
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass(frozen=True)
class Point:
    """Where a layer stands in the traced network.

    Attributes:
        layer: dotted name, as in `named_modules()`.
        module: the Conv2d or Linear itself.
        node, source: the layer's call, and the value it reads.
        chain: calls from behind the layer to its feature, in order; empty where the layer's output is the feature.
        feature: the value that is compared between the images of a pair.
        behind: every call that depends on the layer, in order.
        beside: values from before the layer that these calls read too.
    """

    layer: str
    module: nn.Conv2d | nn.Linear
    node: fx.Node
    source: fx.Node
    chain: tuple[fx.Node, ...]
    feature: fx.Node
    behind: tuple[fx.Node, ...]
    beside: tuple[fx.Node, ...]


class Network:
    """A copy of a network, in evaluation mode, as a list of calls whose values can be kept and put back.

    Args:
        model: any module from images (N, C, H, W) to logits (N, classes) that torch.fx can trace.
        dtype: of the copy.
    Raises: LancetError where it cannot be traced.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        clone = copy.deepcopy(model).eval().to(dtype).to(memory_format=torch.channels_last)
        for parameter in clone.parameters():
            parameter.requires_grad_(False)
        for module in clone.modules():
            if getattr(module, "inplace", False):  # recorded values must stay as they were
                module.inplace = False  # type: ignore[assignment]
        try:
            self.traced = fx.symbolic_trace(clone)
        except Exception as error:  # fx raises many kinds
            raise LancetError(
                f"{type(model).__name__} cannot be traced by torch.fx ({error}): its forward may not branch on values; "
                "call such parts as modules marked as leaves, or give a network without them"
            ) from error
        self.dtype = dtype
        self.modules = dict(self.traced.named_modules())
        self.nodes = list(self.traced.graph.nodes)
        self.place = {node: position for position, node in enumerate(self.nodes)}
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        outputs = [node for node in self.nodes if node.op == "output"]
        if len(inputs) != 1 or not isinstance(outputs[0].args[0], fx.Node):
            raise LancetError(f"{type(model).__name__}: a network from one tensor of images to one of logits is wanted")
        self.input, self.logits = inputs[0], outputs[0].args[0]

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.traced.parameters()).device

    def points(self, layers: Iterable[str] | None = None) -> list[Point]:
        """The named Conv2d and Linear layers, or all, in the order of the forward pass.

        Raises: LancetError for a name that is no such layer, or one that is called more than once.
        """
        known = weight_layers(self.traced)
        wanted = list(known) if layers is None else list(layers)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise LancetError(f"layers names {unknown}: the Conv2d and Linear layers are {list(known)}")
        calls = {name: [node for node in self.nodes if node.target == name and _is_module(node)] for name in wanted}
        several = [name for name, nodes in calls.items() if len(nodes) > 1]
        if several:
            raise LancetError(
                f"layers {several} are called more than once in a forward pass: their features are not one tensor; "
                "name the other layers with layers="
            )
        found = [self._point(name, nodes[0]) for name, nodes in calls.items() if nodes]
        return sorted(found, key=lambda point: self.place[point.node])

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
        behind = self._behind(node)
        inside = {node, *behind}
        beside = dict.fromkeys(value for call in behind for value in call.all_input_nodes if value not in inside)
        source, module = node.args[0], self.modules[name]
        assert isinstance(source, fx.Node) and isinstance(module, (nn.Conv2d, nn.Linear))
        feature = chain[-1] if chain else node
        return Point(name, module, node, source, tuple(chain), feature, tuple(behind), tuple(beside))

    def _behind(self, node: fx.Node) -> list[fx.Node]:
        reached = {node}
        for other in self.nodes[self.place[node] + 1 : self.place[self.logits] + 1]:
            if other.op != "output" and any(value in reached for value in other.all_input_nodes):
                reached.add(other)
        reached.discard(node)
        return sorted(reached, key=self.place.__getitem__)

    def _is_passed(self, node: fx.Node) -> bool:
        if _is_module(node):
            return isinstance(self.modules[str(node.target)], _PASSED)
        return node.op in ("call_function", "call_method") and node.target in _PASSED_CALLS

    def _is_sum(self, node: fx.Node) -> bool:
        tensors = [value for value in node.args if isinstance(value, fx.Node)]
        return node.op in ("call_function", "call_method") and node.target in _SUMS and len(tensors) == 2

    def record(self, images: Tensor) -> dict[fx.Node, Any]:
        """The value of every call for images (N, C, H, W)."""
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        return self.run(self.nodes, {self.input: images})

    def logits_of(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.record(images)[self.logits]

    def rest(self, point: Point, outputs: Tensor, values: Mapping[fx.Node, Any], rows: Tensor) -> Tensor:
        """Logits of the network with other values in place of a layer's output.

        Args:
            point: the layer.
            outputs: (R, *output.shape): what stands in its place.
            values: from `record`, of N images.
            rows: int64 (R,): which of the N images each row is.
        Returns: (R, classes).
        """
        known = {node: _rows(node, values[node], rows, len(values[self.input])) for node in point.beside}
        known[point.node] = outputs
        return self.run(point.behind, known)[self.logits]

    def run(self, nodes: Sequence[fx.Node], known: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        """Calls in order, beside the values that are known; the known ones are not called again."""
        for node in nodes:
            if node in known or node.op == "output":
                continue
            args = fx.node.map_arg(node.args, known.__getitem__)
            named = fx.node.map_arg(node.kwargs, known.__getitem__)
            known[node] = self._call(node, args, named)
        return known

    def _call(self, node: fx.Node, args: Any, named: Any) -> Any:
        if node.op == "call_module":
            return self.modules[str(node.target)](*args, **named)
        if node.op == "call_function":
            assert callable(node.target)
            if "inplace" in named:
                named = {**named, "inplace": False}
            return (operator.add if node.target is operator.iadd else node.target)(*args, **named)
        if node.op == "call_method":
            name = str(node.target)
            if name.endswith("_") and not name.endswith("__"):
                return getattr(args[0].clone(), name)(*args[1:], **named)
            if name == "view" and not isinstance(args[1], torch.dtype):
                name = "reshape"  # the copy is laid out another way than the network was written for
            return getattr(args[0], name)(*args[1:], **named)
        owner: Any = self.traced
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return owner


def _is_module(node: fx.Node) -> bool:
    return node.op == "call_module"


def _rows(node: fx.Node, value: Any, rows: Tensor, count: int) -> Any:
    """The rows of a recorded value; what is no batch of values (a parameter, a width) stays."""
    if isinstance(value, Tensor):
        return value[rows] if node.op != "get_attr" and value.ndim and len(value) == count else value
    if isinstance(value, torch.Size):
        return torch.Size([len(rows), *value[1:]])
    return len(rows) if _is_batch_size(node) else value


def _is_batch_size(node: fx.Node) -> bool:
    """Whether a call reads how many images there are: x.size(0), x.size()[0], x.shape[0]."""
    if node.target == "size":
        return node.args[1:] == (0,)
    if node.target is not operator.getitem or node.args[1] != 0:
        return False
    owner = node.args[0]
    return isinstance(owner, fx.Node) and (owner.target == "size" or owner.args[1:] == ("shape",))
