"""Tracing by torch.fx that sees steps which change a tensor in place, and writes them as steps that make a new one.

After `out.add_(x)` every later reader of `out` reads the sum, under each of the names that the tensor has. A tensor
that shares memory with a changed one without being the same (a view) must not be read afterwards: that is refused.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from lib.graph.operations import SAME, is_size, of_shape, where

_IN_PLACE = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")


class _Proxy(fx.Proxy):
    """A traced value. torch.fx reads `x += y` as `x = x + y`, and so loses that other names of x change with it."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _in_place(name: str) -> Any:
    target = getattr(operator, f"i{name}")

    def method(self: _Proxy, other: Any) -> fx.Proxy:
        # Named as the plain step: profiles are kept under the names of steps.
        return self.tracer.create_proxy("call_function", target, (self, other), {}, name=name.strip("_"))

    return method


for _name in _IN_PLACE:
    setattr(_Proxy, f"__i{_name}__", _in_place(_name))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def traced(model: nn.Module, error: type[ValueError]) -> fx.GraphModule:
    """The graph of a network's calls, as it computes in the mode that it is in.

    Raises: error where it cannot be traced.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as problem:  # tracing runs the network's own code, which may raise anything
        raise error(
            f"{type(model).__name__} cannot be traced by torch.fx ({problem}): its forward may not branch on values or "
            "loop over sizes; mark such a part with torch.fx.wrap, or give a network without it"
        ) from problem
    return fx.GraphModule(tracer.root, graph, type(model).__name__)


_OPERATORS = {
    getattr(operator, f"i{name}"): getattr(operator, last)
    for name, last in [
        *((name, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")),
        *((name, f"{name}_") for name in ("and", "or")),
        ("xor", "xor"),
    ]
}
# What may return a view of its first argument.
_VIEW_MODULES = (nn.Flatten, nn.Unflatten)
_VIEWS = {
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "expand", "detach"),
    *("narrow", "select", "chunk", "split", "unbind", "contiguous", "to", "type", "float", "double", "t", "movedim"),
    *("swapaxes", "expand_as", "view_as", "reshape_as", "unfold", "diagonal", "tensor_split", "getitem", "getattr"),
    *("swapdims", "moveaxis", "ravel", "dropout", "type_as", "as_strided", "broadcast_to", "stochastic_depth"),
}


def assigned(value: Tensor, index: Any, new: Any) -> Tensor:
    """A copy of a tensor with other values at an index."""
    value = value.clone()
    value[index] = new
    return value


def changed(value: Tensor, name: str, *args: Any, **named: Any) -> Tensor:
    """A copy of a tensor changed by one of its methods that end with an underscore."""
    value = value.clone()
    getattr(value, name)(*args, **named)
    return value


def functional(module: fx.GraphModule, error: type[ValueError]) -> None:
    """Write the steps of a traced network that change tensors in place as steps that make new ones.

    Args:
        module: changed; so are its modules' flags `inplace`.
        error: what is raised.
    Raises: error for a view that is read after its tensor was changed, and for a change of a parameter or buffer.
    """
    modules = dict(module.named_modules())
    flagged = {name for name, each in modules.items() if getattr(each, "inplace", False)}
    now: dict[fx.Node, fx.Node] = {}  # tensor -> what holds its values after a change
    memory: dict[fx.Node, fx.Node] = {}  # tensor -> the one that it shares memory with
    stale: dict[fx.Node, fx.Node] = {}  # view -> the step that changed its memory
    exact: dict[fx.Node, fx.Node] = {}  # tensor -> the one that it is another name of
    for node in module.graph.nodes:
        if not of_shape(node):
            for value in node.all_input_nodes:
                if value in stale and value not in now:
                    raise error(
                        f"{_said(node)} reads {value.name}, whose memory {_said(stale[value])} has changed in place: "
                        "make that a step which gives a new tensor, as x = x + y for x += y"
                    )
        node.args = fx.map_arg(node.args, lambda value: _latest(value, now))
        node.kwargs = fx.map_arg(node.kwargs, lambda value: _latest(value, now))
        target = _changed(node, flagged)
        if target is not None:
            if target.op == "get_attr":
                raise error(f"{_said(node)} changes the parameter or buffer {target.target!r} at every call")
            if "out" in node.kwargs:
                raise error(f"{_said(node)} writes into out=: make it a step that gives a new tensor")
            name = exact.get(target, target)
            for other, root in memory.items():
                if root is memory[target] and other not in now:
                    if exact.get(other, other) is name:
                        now[other] = node
                    else:
                        stale[other] = node
            _rewrite(node)
        memory[node], exact[node] = node, node
        source = next(iter(node.all_input_nodes), None)
        if target is None and source is not None and not of_shape(node):
            if node.op == "call_module" and isinstance(modules[str(node.target)], SAME):
                memory[node], exact[node] = memory[source], exact[source]
            elif _is_view(node, modules):
                memory[node] = memory[source]
    for name in flagged:
        modules[name].inplace = False
    module.graph.lint()


def _latest(node: fx.Node, now: dict[fx.Node, fx.Node]) -> fx.Node:
    while node in now:
        node = now[node]
    return node


def _said(node: fx.Node) -> str:
    return f"{node.name} in {where(node)!r}"


def _is_view(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _VIEW_MODULES)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in _VIEWS


def _changed(node: fx.Node, flagged: set[str]) -> fx.Node | None:
    """The tensor that a step changes, or None."""
    out = node.kwargs.get("out")
    if isinstance(out, fx.Node):
        return out
    first = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(first, fx.Node) or is_size(first):
        return None
    if node.op == "call_module":
        return first if node.target in flagged else None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_method":
        return first if name.endswith("_") and not name.endswith("__") else None
    if node.op == "call_function":
        if node.target in _OPERATORS or node.target is operator.setitem or _given_in_place(node):
            return first
        torchs = (getattr(node.target, "__module__", "") or "torch").startswith("torch")
        return first if torchs and name.endswith("_") and not name.endswith("__") else None
    return None


def _given_in_place(node: fx.Node) -> bool:
    """Whether a function is called with inplace=True."""
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    place = _place_of_inplace(node)
    return place is not None and len(node.args) > place and bool(node.args[place])


def _place_of_inplace(node: fx.Node) -> int | None:
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None


def _rewrite(node: fx.Node) -> None:
    if node.op == "call_module":  # its flag is taken away at the end
        return
    if node.op == "call_method":
        name = str(node.target)
        if hasattr(Tensor, name[:-1]):
            node.target = name[:-1]
        else:
            node.op, node.target = "call_function", changed
            node.args = (node.args[0], name, *node.args[1:])
    elif node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
    elif node.target is operator.setitem:
        node.target = assigned
    elif _given_in_place(node):
        place = _place_of_inplace(node)
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
        elif place is not None:
            node.args = (*node.args[:place], False, *node.args[place + 1 :])
    else:
        name = getattr(node.target, "__name__", "")
        plain = getattr(torch, name[:-1], None)
        if plain is not None:
            node.target = plain
        else:
            node.args, node.target = (node.args[0], name, *node.args[1:]), changed
