"""A network as a list of calls whose values can be kept and put back, and that agree with the network itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lib.graph.copies import GraphError, copied, fold, logits_in
from lib.graph.layout import PLAIN, Layout, layout_of, near
from lib.graph.operations import said
from lib.graph.tracing import functional, traced

ROUNDING = 1e-8  # largest difference of equal values in float64, relative to the largest value of a tensor
CAST = 1e-3  # the same, of a network that casts to another precision on its way
_CASTS = {"float", "double", "half", "bfloat16"}
_FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def read(model: nn.Module, error: type[ValueError] = GraphError) -> fx.GraphModule:
    """The graph of a network's calls in the mode that it is in, without steps in place.

    Args:
        model: a copy, whose hooks are taken off: what a hook does to a value is no call; `Network.verify` sees it
            missing.
        error: what is raised.
    """
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
    graph = traced(model, error)
    functional(graph, error)
    return graph


def behind_output(graph: fx.GraphModule) -> list[fx.Node]:
    """The calls that the output depends on, in order."""
    nodes = list(graph.graph.nodes)
    reached = set(nodes[-1:])
    for node in reversed(nodes):
        if node in reached:
            reached.update(node.all_input_nodes)
    return [node for node in nodes if node in reached and node.op != "output"]


class Network:
    """A copy of a network in evaluation mode, as a list of calls.

    Args:
        model: any module from one tensor of images (N, C, H, W) to one of logits (N, classes) that torch.fx can trace.
            It is left as it is. Its wrappers are taken off, parametrised weights become plain ones, and steps that
            change a tensor in place become steps that make a new one.
        dtype: of the copy.
        error: what is raised in place of GraphError.
        channels_last: how the copy's tensors are laid out in memory.
    Attributes:
        traced: the copy; its modules have the dotted names of the network's.
        nodes: the calls that the logits depend on, in order.
        place: each call's position among them.
        input, logits: the calls that are the images and the logits.
        layouts: name of a call -> where the images lie in its value, None where it is the same for all images; filled
            by `verify`. A value that is no tensor has no entry.
        classes: number of logits; known from `verify` on.
    Raises: GraphError where the network cannot be copied, traced or rewritten so.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype = torch.float64,
        error: type[ValueError] = GraphError,
        channels_last: bool = False,
    ) -> None:
        self.error, self.dtype, self.channels_last = error, dtype, channels_last
        clone = fold(copied(model, error, plain=False).eval().to(dtype)).requires_grad_(False)
        if channels_last:
            clone = clone.to(memory_format=torch.channels_last)
        self.name = type(clone).__name__
        self.traced = read(clone, error)
        self.modules = dict(self.traced.named_modules())
        graph = list(self.traced.graph.nodes)
        inputs = [node for node in graph if node.op == "placeholder"]
        logits = next(node for node in graph if node.op == "output").args[0]
        used = [node for node in inputs if node.users]
        if len(used) != 1 or not isinstance(logits, fx.Node):
            kind = type(logits).__name__.removeprefix("immutable_")  # as torch.fx keeps lists and dicts
            given = "one" if isinstance(logits, fx.Node) else f"a {kind} of several"
            taken = "one tensor" if len(used) == 1 else f"{len(used)} tensors"
            raise error(
                f"{self.name} takes {taken} and returns {given}: a network from one tensor of images to "
                "one of logits is wanted; wrap it in a module that returns the logits alone"
            )
        self.input, self.logits = used[0], logits
        self.nodes = behind_output(self.traced)
        self.place = {node: position for position, node in enumerate(self.nodes)}
        self.layouts: dict[str, Layout | None] = {}
        self.classes = 0
        self._depends = self._from_images()

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next((p.device for p in self.traced.parameters()), torch.device("cpu"))

    def images(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) as the copy takes them; uint8 is divided by 255."""
        memory = torch.channels_last if self.channels_last else torch.preserve_format
        x = images.to(self.device, self.dtype, memory_format=memory)
        return x / 255 if images.dtype == torch.uint8 else x

    def record(self, images: Tensor) -> dict[fx.Node, Any]:
        """The value of every call for images (N, C, H, W)."""
        return self.run(self.nodes, {self.input: self.images(images)})

    def run(self, nodes: Iterable[fx.Node], known: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        """Calls in order, beside the values that are known; the known ones are not called again."""
        for node in nodes:
            if node not in known and node.op != "output":
                args = fx.map_arg(node.args, known.__getitem__)
                named = fx.map_arg(node.kwargs, known.__getitem__)
                known[node] = self.call(node, args, named)
        return known

    def call(self, node: fx.Node, args: Any, named: Any) -> Any:
        """One call, on these arguments."""
        if node.op == "call_module":
            return self.modules[str(node.target)](*args, **named)
        if node.op == "call_function":
            return node.target(*args, **named)  # type: ignore[operator]
        if node.op == "call_method":
            name = str(node.target)
            if name in _CASTS:
                return args[0].to(self.dtype)
            if name == "to" or name == "type":  # precision is the copy's
                args = tuple(self.dtype if value in _FLOATING else value for value in args[1:])
                named = {key: self.dtype if value in _FLOATING else value for key, value in named.items()}
                return getattr(args[0], name)(*args, **named)
            if name == "view" and not isinstance(args[1], torch.dtype):
                name = "reshape"  # the copy may be laid out another way than the network was written for
            return getattr(args[0], name)(*args[1:], **named)
        owner: Any = self.traced
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return owner

    def layout(self, node: fx.Node) -> Layout:
        """Where the images lie in a call's value; as in the images themselves where nothing is known."""
        return self.layouts.get(node.name) or PLAIN

    def take(self, node: fx.Node, value: Tensor, index: Tensor) -> Tensor:
        """A recorded value of some of the images; what is the same for all images stays."""
        layout = self.layouts[node.name]
        return value if layout is None else layout.take(value, index)

    def depends(self, node: fx.Node) -> bool:
        """Whether a call's value comes from the images, be it from their number alone."""
        return node in self._depends

    def adopt(self, other: Network) -> Network:
        """Take over what `verify` found of the same network in another precision."""
        self.layouts, self.classes = other.layouts, other.classes
        return self

    def verify(self, model: nn.Module, images: Tensor) -> Network:
        """Compare this list of calls with the network itself, and find where the images lie in each value.

        Two images, the first one given and one of noise, go through alone and together, in float64. Every value has to
        be that of each image alone, and the logits those of the network itself, up to rounding.

        Args:
            model: the network that this is a copy of.
            images: (N, C, H, W), at least one.
        Returns: itself.
        Raises: GraphError naming the call that differs, mixes images or fails.
        """
        if self.dtype != torch.float64:  # where rounding hides nothing
            return self.adopt(Network(model, error=self.error).verify(model, images))
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=self._devices()):
            first = self.images(images[:1].clone())
            noise = torch.rand(first.shape, generator=torch.Generator().manual_seed(0)).to(first)
            both = torch.cat([first, noise])
            if self.channels_last:
                both = both.contiguous(memory_format=torch.channels_last)
            alone = [self._tried(part) for part in (both[:1], both[1:])]
            together = self._tried(both)
            for node in self.nodes:
                try:
                    self._place(node, [values[node] for values in alone], together[node])
                except self.error:
                    again = self._tried(both)[node]
                    if isinstance(again, Tensor) and not near(again, together[node], ROUNDING):
                        raise self.error(
                            f"{said(node, self.modules)} gives other values at each call, in evaluation mode too: "
                            "take the randomness out, as F.dropout(x, training=self.training) for F.dropout(x)"
                        ) from None
                    raise
            if self.layouts.get(self.logits.name) != PLAIN or together[self.logits].ndim != 2:
                raise self.error(
                    f"{self.name} returns {tuple(together[self.logits].shape)} for two images: logits (N, classes) "
                    "are wanted"
                )
            self.classes = together[self.logits].shape[1]
            self._compare(model, both, together)
        return self

    def _tried(self, images: Tensor) -> dict[fx.Node, Any]:
        known: dict[fx.Node, Any] = {self.input: images}
        for node in self.nodes:
            try:
                self.run([node], known)
            except Exception as problem:
                shapes = [tuple(known[n].shape) for n in node.all_input_nodes if isinstance(known[n], Tensor)]
                raise self.error(
                    f"{said(node, self.modules)} fails on a batch of {len(images)} of shape {tuple(images.shape[1:])}, "
                    f"on inputs {shapes}: {problem}"
                ) from problem
        return known

    def _place(self, node: fx.Node, alone: Sequence[Any], both: Any) -> None:
        if not isinstance(both, Tensor):
            return
        if node not in self._depends:
            self.layouts[node.name] = None
            return
        found = layout_of(list(alone), both, ROUNDING)
        if isinstance(found, str):
            raise self.error(
                f"{said(node, self.modules)} does not treat the images of a batch one by one: {found}. Every value "
                "must be that of each image alone, or an analysis of one image would depend on the others; name "
                "dimensions in place of squeeze(), keep running statistics in normalisation, and do not fold the batch "
                "into a sum or mean"
            )
        self.layouts[node.name] = found

    def _compare(self, model: nn.Module, images: Tensor, values: Mapping[fx.Node, Any]) -> None:
        """Compare the logits with those of the network itself, in float64 or else in its own precision."""
        itself, ours = copied(model, self.error, plain=False).eval(), values[self.logits]
        same = CAST if any(self._casts(node) for node in self.nodes) else ROUNDING
        own = next((p.dtype for p in itself.parameters()), self.dtype)
        given = images.clone(memory_format=torch.contiguous_format)
        try:
            wanted = itself.to(self.dtype)(given)
        except RuntimeError:  # a network that casts on its way can only run as it is
            itself, given, same = copied(model, self.error, plain=False).eval(), given.to(own), 1e-2
            try:
                wanted = itself(given)
            except RuntimeError as problem:
                raise self.error(f"{self.name} cannot be run on images {tuple(given.shape)}: {problem}") from problem
        wanted = logits_in(wanted, self.error).to(self.dtype)
        if near(ours, wanted, same):
            return
        first = self._first_difference(itself, given, values, same)
        off = f"by {float((ours - wanted).abs().max()):.3g}" if ours.shape == wanted.shape else "in shape"
        raise self.error(
            f"{self.name}: what torch.fx reads off it is not what it computes: logits differ {off}"
            + (f", first at {first}" if first else "")
            + ". Look there for what tracing cannot see: a hook that changes values, randomness in evaluation mode, a "
            "state that changes from call to call; take it out"
        )

    @staticmethod
    def _casts(node: fx.Node) -> bool:
        """Whether a call changes the precision, which the copy does not follow."""
        given = (*node.args, *node.kwargs.values())
        return node.op == "call_method" and (
            node.target in _CASTS or any(value in _FLOATING for value in given if isinstance(value, torch.dtype))
        )

    def _first_difference(self, itself: nn.Module, images: Tensor, values: Mapping[fx.Node, Any], same: float) -> str:
        """The first module whose output is not the one of its call here."""
        calls: dict[str, list[fx.Node]] = {}
        for node in self.nodes:
            if node.op == "call_module":
                calls.setdefault(str(node.target), []).append(node)
        found: list[str] = []

        def hook(name: str) -> Any:
            def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
                node = calls[name].pop(0) if calls[name] else None
                if node is None or found or not isinstance(output, Tensor):
                    return
                if not near(output.to(values[node].dtype), values[node], same):
                    found.append(said(node, self.modules))

            return look

        for name, module in itself.named_modules():
            if name in calls:
                module.register_forward_hook(hook(name))
        try:
            itself(images)
        except RuntimeError:
            return ""
        return found[0] if found else ""

    def _from_images(self) -> set[fx.Node]:
        found = {self.input}
        for node in self.nodes:
            if any(value in found for value in node.all_input_nodes):
                found.add(node)
        return found

    def _devices(self) -> list[Any]:
        return [self.device] if self.device.type == "cuda" else []
