"""A network as a list of operations, each of a kind that slicing has a rule for, and their recorded values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lib.graph import Layout, Network
from lib.graph import operations as table

CENTRED = ("convolution", "linear", "average", "add")  # the kinds whose rule reads deviations from a mean
NEEDS_VALUES = (*CENTRED, "maximum")
_PASSED = ("norm", "activation", "same", "affine")
_KNOWN = (
    "Conv2d, Conv1d, their transposed forms, Linear, normalisation, activations, Dropout, max and average pools, "
    "residual addition, scaling, the product of two activations, concatenation, chunk, flatten, reshape, permute, pad"
)


class SlicingError(ValueError):
    """A network that cannot be sliced; the message names the operation, its module and what is known."""


@dataclass(frozen=True)
class Operation:
    """One operation of a network.

    Attributes:
        name: its node's name, unique in the network.
        kind: input, convolution, linear, average, maximum, add, multiply, concatenate, pass, rearrange, parts, output,
            or value for what is no tensor of activations.
        layer: dotted name of the module that it is a call of; "" for a function.
        where: dotted name of the module in whose forward it stands, for messages.
        inputs: names of the operations whose activations it takes.
        module: the module it calls, a float64 copy; None for a function.
        node: its call in the traced network.
    """

    name: str
    kind: str
    layer: str
    where: str
    inputs: tuple[str, ...]
    module: nn.Module | None
    node: fx.Node = field(repr=False, compare=False)


class Graph:
    """The operations of a network in evaluation mode, in the order they run, on a copy of it.

    Args:
        model: any network that torch.fx can trace, of one image tensor in and one tensor out. It is left as it is.
        precision: of the copy; float64, so that a slice does not depend on the batch that it came in.

    Raises: SlicingError naming the operation that is not known. The first images that are recorded verify the copy, as
        `lib.graph.Network.verify` says.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype = torch.float64) -> None:
        self.network = Network(model, precision, SlicingError)
        self.precision, self.device = precision, self.network.device
        self._source: nn.Module | None = model  # until it is verified
        self.operations: dict[str, Operation] = {}
        for node in self.network.nodes:
            self.operations[node.name] = self._operation(node)
        self.input, self.output = self.network.input.name, self.network.logits.name
        self._last_use = self._last_uses()

    @property
    def layers(self) -> dict[str, list[Operation]]:
        """Layer name -> its calls, in order; `input` is the image."""
        found: dict[str, list[Operation]] = {"input": [self.operations[self.input]]}
        for op in self.operations.values():
            if op.layer and op.kind not in ("value", "input"):
                found.setdefault(op.layer, []).append(op)
        return found

    def weighted(self) -> dict[str, nn.Conv2d | nn.Linear]:
        """Layer name -> module, of the convolutions and linear layers that the network calls, in order."""
        found: dict[str, nn.Conv2d | nn.Linear] = {}
        for op in self.operations.values():
            if op.kind in ("convolution", "linear"):
                found[op.layer] = op.module  # type: ignore[assignment]
        return found

    def values_needed(self) -> list[str]:
        """Operations whose values the backward phase reads."""
        found: dict[str, None] = {}
        for op in self.operations.values():
            if op.kind in NEEDS_VALUES:
                found |= dict.fromkeys((*op.inputs, op.name) if op.kind in CENTRED else op.inputs)
        return list(found)

    def means_needed(self) -> list[str]:
        """Operations whose mean value a profile keeps."""
        found: dict[str, None] = {}
        for op in self.operations.values():
            if op.kind in CENTRED:
                found |= dict.fromkeys((*op.inputs, op.name))
        return list(found)

    def layout(self, name: str) -> Layout:
        """Where the images lie in the value of an operation."""
        return self.network.layout(self.operations[name].node)

    def record(self, images: Tensor, keep: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, torch.Size]]:
        """Run the network and keep the values of some operations.

        Args:
            images: (N, C, H, W) in [0, 1], float or uint8 (divided by 255), on any device.
            keep: names of operations.
        Returns: their values, images first, and the shape of every operation's value, as the network lays it out.
        """
        values, shapes, _ = self.recorded(images, keep)
        return values, shapes

    @torch.no_grad()
    def recorded(
        self, images: Tensor, keep: Iterable[str]
    ) -> tuple[dict[str, Tensor], dict[str, torch.Size], dict[str, Any]]:
        """As `record`; and what is no activation: sizes, as a view is given them, and constant tensors."""
        if self._source is not None:
            self.network.verify(self._source, images)
            self._source = None
        wanted = {*keep, self.output}
        values: dict[fx.Node, Any] = {self.network.input: self.network.images(images)}
        kept: dict[str, Tensor] = {}
        shapes: dict[str, torch.Size] = {}
        sizes: dict[str, Any] = {}
        for op in self.operations.values():
            value = self.network.run([op.node], values)[op.node]
            if isinstance(value, Tensor):
                shapes[op.name] = value.shape
            if op.kind == "value":
                sizes[op.name] = value
            elif op.name in wanted and isinstance(value, Tensor):
                kept[op.name] = self.network.layout(op.node).rows(value).contiguous()
            for node in self._last_use.get(op.name, ()):
                values.pop(node, None)
        self._check_shapes(shapes)
        return kept, shapes, sizes

    def arguments(self, op: Operation, sizes: dict[str, Any]) -> tuple[list, dict]:
        """What an operation is called with: sizes as numbers, tensors as their nodes."""
        args, named = fx.map_arg((op.node.args, dict(op.node.kwargs)), lambda n: sizes.get(n.name, n))
        return list(args), named

    def run_on(self, op: Operation, value: Tensor, sizes: dict[str, Any], shapes: dict[str, torch.Size]) -> Tensor:
        """What a rearranging operation makes of another tensor in place of its input's value; -1 in the padding.

        Args: sizes, shapes: from `recorded`.
        """
        source = self.operations[op.inputs[0]]
        known: dict[fx.Node, Any] = {source.node: value}
        for node in op.node.all_input_nodes:
            if node not in known and self.operations[node.name].kind == "parts":
                known[node] = self.run_on(self.operations[node.name], value, sizes, shapes)
            elif node not in known:  # sizes, or a tensor of whose shape it takes on
                known[node] = sizes[node.name] if node.name in sizes else value.new_empty(shapes[node.name])
        arguments, named = fx.map_arg((op.node.args, dict(op.node.kwargs)), known.__getitem__)
        if op.node.target is F.pad and (named.get("mode") or (arguments[2:3] or ["constant"])[0]) == "constant":
            return F.pad(arguments[0], named.get("pad", arguments[1] if len(arguments) > 1 else None), value=-1)
        if isinstance(op.module, nn.ZeroPad2d):
            return F.pad(value, op.module.padding, value=-1)
        return self.network.call(op.node, arguments, named)

    def _operation(self, node: fx.Node) -> Operation:
        module = self.network.modules[str(node.target)] if node.op == "call_module" else None
        layer = str(node.target) if node.op == "call_module" else ""
        given = [n for n in node.all_input_nodes if self.operations[n.name].kind != "value"]
        kind = self._kind(node, module, given)
        if kind in ("add", "multiply", "concatenate"):  # one tensor may stand twice among them
            terms = (node.args[0] if node.args else node.kwargs["tensors"]) if kind == "concatenate" else node.args[:2]
            given = [n for n in terms if isinstance(n, fx.Node)]  # type: ignore[union-attr]
        names = [] if kind == "value" else [n.name for n in given]
        if kind in ("rearrange", "pass", "parts"):  # another tensor among them gives its shape or type alone
            names = names[:1]
        if kind == "rearrange" and self.operations[names[0]].kind == "parts":  # one part of a tensor
            names = list(self.operations[names[0]].inputs)
        return Operation(node.name, kind, layer, table.where(node), tuple(names), module, node)

    def _kind(self, node: fx.Node, module: nn.Module | None, given: list[fx.Node]) -> str:
        if node is self.network.input:
            return "input"
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if not given or table.is_size(node) or name in table.FILLED or not self.network.depends(node):
            return "value"
        found, what = table.kind(node, self.network.modules), table.said(node, self.network.modules)
        if module is not None:
            self._check_module(module, what)
        if found in _PASSED:
            return "pass" if len(given) == 1 or found == "same" else self._refuse(what)
        if found == "add":
            if node.kwargs.get("alpha", 1) != 1 or len(node.args) > 2:
                raise SlicingError(f"{what} is a scaled addition: only a plain sum of two branches can be sliced")
            return "add" if _operands(node, given) == 2 else "pass"
        if found in ("subtract", "multiply", "divide"):
            if _operands(node, given) == 2 and found == "multiply":
                return "multiply"
            if _operands(node, given) != 1 or (found == "divide" and node.args[0] not in given):
                raise SlicingError(f"{what} combines two activations: of these a sum and a product can be sliced")
            return "pass"
        return found or self._refuse(what)

    @staticmethod
    def _refuse(what: str) -> str:
        raise SlicingError(f"{what} cannot be sliced: known are {_KNOWN}")

    @staticmethod
    def _check_module(module: nn.Module, what: str) -> None:
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.padding_mode != "zeros":
            raise SlicingError(f"{what} pads by {module.padding_mode!r}: only zero padding can be sliced")
        if getattr(module, "return_indices", False):
            raise SlicingError(f"{what} returns indices: set return_indices to False")

    def _check_shapes(self, shapes: dict[str, torch.Size]) -> None:
        for op in self.operations.values():
            if op.kind in ("add", "pass") and any(shapes[name] != shapes[op.name] for name in op.inputs):
                found = " and ".join(str(tuple(shapes[name][1:])) for name in op.inputs)
                raise SlicingError(f"{op.name} in {op.where!r} broadcasts {found}: equal shapes can be sliced")

    def _last_uses(self) -> dict[str, list[fx.Node]]:
        """Operation -> values that nothing reads after it."""
        last: dict[fx.Node, str] = {}
        for op in self.operations.values():
            last |= dict.fromkeys(op.node.all_input_nodes, op.name)
        found: dict[str, list[fx.Node]] = {}
        for node, at in last.items():
            if self.operations[node.name].kind != "value":
                found.setdefault(at, []).append(node)
        return found


def last_convolution(model: nn.Module, kernel: int = 3) -> str:
    """Dotted name of the last convolution of a network with a kernel of `kernel` x `kernel`.

    Raises: SlicingError where there is none.
    """
    found = [
        name
        for name, module in Graph(model).weighted().items()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (kernel, kernel)
    ]
    if not found:
        raise SlicingError(f"{type(model).__name__} has no {kernel}x{kernel} convolution")
    return found[-1]


def _operands(node: fx.Node, given: list[fx.Node]) -> int:
    """How many of the two operands of node are activations; x + x counts twice."""
    return sum(isinstance(argument, fx.Node) and argument in given for argument in node.args[:2])
