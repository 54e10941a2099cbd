"""Tracing by torch.fx that also sees steps which change a tensor in place: `x += y`, `x[i] = y`."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

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
