"""A network as a list of operations, each of a kind that slicing knows, and their recorded values."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

PASS_MODULES = (nn.ReLU, nn.ReLU6, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity)
_MODULES: list[tuple[tuple[type[nn.Module], ...], str]] = [
    ((nn.Conv2d,), "convolution"),
    ((nn.Linear,), "linear"),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d), "average"),
    ((nn.MaxPool2d, nn.AdaptiveMaxPool2d), "maximum"),
    (PASS_MODULES, "pass"),
    ((nn.Flatten, nn.Unflatten, nn.ZeroPad2d), "rearrange"),
]
_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), "add"),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), "concatenate"),
    **dict.fromkeys((F.relu, torch.relu, F.relu6, F.dropout), "pass"),
    **dict.fromkeys((operator.sub, operator.mul, operator.truediv, torch.sub, torch.mul, torch.div), "affine"),
    **dict.fromkeys((F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean), "average"),
    **dict.fromkeys((F.max_pool2d, F.adaptive_max_pool2d, torch.max_pool2d), "maximum"),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, F.pad), "rearrange"),
    **dict.fromkeys((torch.permute, torch.transpose), "rearrange"),
    getattr: "value",
    operator.getitem: "rearrange",
}
_METHODS = {
    **dict.fromkeys(("add", "add_"), "add"),
    **dict.fromkeys(("relu", "relu_", "contiguous", "clone"), "pass"),
    **dict.fromkeys(("sub", "mul", "div"), "affine"),
    **dict.fromkeys(("view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose"), "rearrange"),
    **dict.fromkeys(("size", "dim"), "value"),
    "mean": "average",
}
_IN_PLACE: dict[Any, Any] = {operator.iadd: operator.add, "add_": "add", "relu_": "relu"}
NEEDS_VALUES = ("convolution", "linear", "average", "add", "maximum")
CENTRED = ("convolution", "linear", "average", "add")  # the kinds whose rule reads deviations from a mean


class SlicingError(ValueError):
    """A network that cannot be sliced; the message names the operation, its module and what is known."""


@dataclass(frozen=True)
class Operation:
    """One operation of a network.

    Attributes:
        name: its node's name, unique in the network.
        kind: input, convolution, linear, average, maximum, add, concatenate, pass, rearrange, output, or value for
            what is no tensor of activations.
        layer: dotted name of the module that it is a call of; "" for a function.
        where: dotted name of the module in whose forward it stands, for messages.
        inputs: names of the operations whose activations it takes.
        module: the module it calls, a float64 copy; None for a function.
        call: computes it from its arguments.
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

    Raises: SlicingError naming the operation that is not known.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype = torch.float64) -> None:
        self.model = copy.deepcopy(model).to(precision).eval()
        self.precision = precision
        for module in self.model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        try:
            self.traced = fx.symbolic_trace(self.model)
        except Exception as error:
            raise SlicingError(f"{type(model).__name__} cannot be traced by torch.fx: {error}") from error
        self.operations: dict[str, Operation] = {}
        for node in self.traced.graph.nodes:
            self.operations[node.name] = self._operation(node)
        inputs = [op.name for op in self.operations.values() if op.kind == "input"]
        outputs = next(op for op in self.operations.values() if op.kind == "output").inputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise SlicingError(
                f"{type(model).__name__} takes {len(inputs)} tensors and returns {len(outputs)}: one image batch in "
                "and one tensor of logits out can be sliced"
            )
        self.input, self.output = inputs[0], outputs[0]
        self.device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
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
            if isinstance(op.module, (nn.Conv2d, nn.Linear)):
                found[op.layer] = op.module
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

    @torch.no_grad()
    def record(self, images: Tensor, keep: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, torch.Size]]:
        """Run the network and keep the values of some operations.

        Args:
            images: (N, C, H, W) in [0, 1], float or uint8 (divided by 255), on any device.
            keep: names of operations.
        Returns: their values, and the shape of every operation's value.
        """
        wanted = {*keep, self.output}
        values: dict[str, Any] = {}
        kept: dict[str, Tensor] = {}
        shapes: dict[str, torch.Size] = {}
        x = images.to(self.device, self.precision)
        x = x / 255 if images.dtype == torch.uint8 else x
        for op in self.operations.values():
            if op.kind == "output":
                break
            value = x if op.kind == "input" else self._run(op, values)
            values[op.name] = value
            if isinstance(value, Tensor):
                shapes[op.name] = value.shape
                if op.name in wanted:
                    kept[op.name] = value.contiguous()
            for name in self._last_use.get(op.name, ()):
                values.pop(name, None)
        self._check_shapes(shapes)
        return kept, shapes

    def run_on(self, op: Operation, value: Tensor, values: dict[str, Any]) -> Tensor:
        """What a rearranging operation makes of another tensor in place of its input's value."""
        arguments, keywords = self._arguments(op.node, {**values, op.inputs[0]: value})
        if op.node.target is F.pad and (keywords.get("mode") or (arguments[2:3] or ["constant"])[0]) == "constant":
            return F.pad(arguments[0], keywords.get("pad", arguments[1] if len(arguments) > 1 else None), value=-1)
        if isinstance(op.module, nn.ZeroPad2d):
            return F.pad(value, op.module.padding, value=-1)
        return self._call(op, arguments, keywords)

    def _run(self, op: Operation, values: dict[str, Any]) -> Any:
        if op.node.op == "get_attr":
            found: Any = self.traced
            for part in str(op.node.target).split("."):
                found = getattr(found, part)
            return found
        return self._call(op, *self._arguments(op.node, values))

    @staticmethod
    def _arguments(node: fx.Node, values: dict[str, Any]) -> tuple[tuple, dict]:
        return fx.map_arg((node.args, dict(node.kwargs)), lambda n: values[n.name])

    @staticmethod
    def _call(op: Operation, arguments: tuple, keywords: dict) -> Any:
        if op.module is not None:
            return op.module(*arguments, **keywords)
        target = _IN_PLACE.get(op.node.target, op.node.target)
        if op.node.op == "call_method":
            return getattr(arguments[0], target)(*arguments[1:], **keywords)
        if "inplace" in keywords:
            keywords = {**keywords, "inplace": False}
        return target(*arguments, **keywords)

    def _operation(self, node: fx.Node) -> Operation:
        module = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        layer = str(node.target) if node.op == "call_module" else ""
        stack = node.meta.get("nn_module_stack") or {}
        where = layer or (list(stack.values())[-1][0] if stack else "") or "the network itself"
        given = [n for n in node.all_input_nodes if self.operations[n.name].kind != "value"]
        kind = self._kind(node, module, given, where)
        if kind in ("add", "concatenate"):  # one tensor may stand twice among them
            terms = node.args[:2] if kind == "add" else (node.args[0] if node.args else node.kwargs["tensors"])
            given = [n for n in terms if isinstance(n, fx.Node)]  # type: ignore[union-attr]
        return Operation(node.name, kind, layer, where, tuple(n.name for n in given), module, node)

    def _kind(self, node: fx.Node, module: nn.Module | None, given: list[fx.Node], where: str) -> str:
        if node.op == "placeholder":
            return "input"
        if node.op == "output":
            return "output"
        if node.op == "get_attr" or not given:
            return "value"
        if module is not None:
            found = next((kind for types, kind in _MODULES if isinstance(module, types)), None)
            what = f"{type(module).__name__} at {where!r}"
            self._check_module(module, what)
        elif node.op == "call_method":
            found, what = _METHODS.get(str(node.target)), f"method .{node.target}() in {where!r}"
        else:
            found, what = _FUNCTIONS.get(node.target), f"{_name(node.target)} in {where!r}"
        if found is None:
            raise SlicingError(
                f"{what} cannot be sliced: known are Conv2d, Linear, BatchNorm, ReLU, Dropout, max and average pools, "
                "residual addition, concatenation, flatten, reshape, pad"
            )
        if found == "add":
            if node.kwargs.get("alpha", 1) != 1 or len(node.args) > 2:
                raise SlicingError(f"{what} is a scaled addition: only a plain sum of two branches can be sliced")
            return "add" if _operands(node, given) == 2 else "pass"
        if found == "affine":
            if _operands(node, given) != 1 or not isinstance(node.args[0], fx.Node) or node.args[0] not in given:
                raise SlicingError(f"{what} combines two activations: of these only a plain sum can be sliced")
            return "pass"
        return found

    @staticmethod
    def _check_module(module: nn.Module, what: str) -> None:
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            raise SlicingError(f"{what} pads by {module.padding_mode!r}: only zero padding can be sliced")
        if getattr(module, "return_indices", False):
            raise SlicingError(f"{what} returns indices: set return_indices to False")

    def _check_shapes(self, shapes: dict[str, torch.Size]) -> None:
        for op in self.operations.values():
            if op.kind in ("add", "pass") and any(shapes[name] != shapes[op.name] for name in op.inputs):
                found = " and ".join(str(tuple(shapes[name][1:])) for name in op.inputs)
                raise SlicingError(f"{op.name} in {op.where!r} broadcasts {found}: equal shapes can be sliced")

    def _last_uses(self) -> dict[str, list[str]]:
        """Operation -> values that nothing reads after it."""
        last: dict[str, str] = {}
        for op in self.operations.values():
            last |= dict.fromkeys((n.name for n in op.node.all_input_nodes), op.name)
        found: dict[str, list[str]] = {}
        for name, at in last.items():
            if self.operations[name].kind != "value":
                found.setdefault(at, []).append(name)
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


def _name(target: Callable | str) -> str:
    return f"{getattr(target, '__name__', target)}()"
