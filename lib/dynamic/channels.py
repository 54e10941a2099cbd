"""Which channels of a network can be left out, and what else must go with them: read off its torch.fx graph.

A convolution's output channels are free when they reach no addition or concatenation: only layers that read them
(convolutions and Linear layers), by way of steps that carry each channel on its own and keep a zero zero (batch
normalisation, activations, pooling, depthwise convolutions). In a VGG these are all convolutions, in a ResNet with
basic blocks the first of each block, in one with bottlenecks the first two, in a MobileNet the stem, pointwise and
expansion layers. What cannot be cut exactly stays whole; `left_whole` names it.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from lib.dynamic.errors import DynamicError
from lib.graph import behind_output, read, structure
from lib.graph import operations as table
from lib.models import VGG

# Activations that leave zero zero, by the names of their functions.
_ZERO_STAYS = {
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "tanh", "softsign"),
    *("leakyrelu",),
}
MAP, FLAT = "(N, C, H, W)", "(N, C * H * W)"  # forms in which channels are carried


@dataclass(frozen=True)
class Site:
    """A convolution whose output channels are free.

    Attributes:
        layer: dotted name of the convolution.
        channels: how many it has.
        norm: the BatchNorm2d that follows it at once; "" where there is none.
        activated: whether an activation that leaves zero zero, as ReLU, follows this normalisation.
        carriers: other modules with one set of weights a channel: depthwise convolutions and their normalisation.
        readers: layer that takes these channels -> how many of its inputs one channel is (above 1 for a Linear
            layer behind a Flatten).
    """

    layer: str
    channels: int
    norm: str
    activated: bool
    carriers: tuple[str, ...]
    readers: dict[str, int]


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution that takes each channel on its own to one channel."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def sites(model: nn.Module) -> dict[str, Site]:
    """Every convolution whose output channels can be left out without touching an addition, in order of use.

    Args:
        model: any network that torch.fx traces; left as found.
    Returns: dotted name of the convolution -> `Site`.
    Raises: DynamicError where the network cannot be traced.
    """
    return {name: found for name, found in _looked_at(model).items() if isinstance(found, Site)}


def left_whole(model: nn.Module) -> dict[str, str]:
    """Every other convolution that the network calls, and why its output channels cannot be left out.

    Args, Raises: as `sites`.
    Returns: dotted name -> the reason, in words.
    """
    return {name: found for name, found in _looked_at(model).items() if isinstance(found, str)}


def gated_sites(model: nn.Module) -> dict[str, Site]:
    """The sites where pruning from scratch has its gates: behind the normalisation, in front of a ReLU.

    Args:
        model: any network that torch.fx traces.
    Returns: as `sites`, without a MobileNetV2's projections, which no ReLU follows, and without a stem that a block
        and its shortcut's projection both read; where there is no other, as in a ResNeXt, with such a stem.
    Raises: DynamicError where no convolution fits.
    Source: Wang et al. 2020, https://arxiv.org/abs/1909.12579, section 3.
    """
    looked = _looked_at(model)
    gated = {name: site for name, site in looked.items() if isinstance(site, Site) and site.norm and site.activated}
    found = {name: site for name, site in gated.items() if len(site.readers) == 1} or gated
    if not found:
        reasons = "; ".join(f"{name}: {found}" for name, found in looked.items() if isinstance(found, str))
        raise DynamicError(
            f"{type(model).__name__} has no convolution followed by BatchNorm2d and ReLU whose channels reach no "
            "addition: there is nothing that a gate could prune; use a VGG, ResNet or MobileNet of lib.models"
            + (f" ({reasons[:300]})" if reasons else "")
        )
    return found


def _looked_at(model: nn.Module) -> dict[str, Site | str]:
    """Every convolution that is called: its site, or why it has none."""
    found = _of_calls(read(structure(model, DynamicError).eval(), DynamicError))
    try:  # what is called only while training, as an auxiliary classifier, must not read what goes
        then = _of_calls(read(structure(model, DynamicError).train(), DynamicError))
    except DynamicError:
        return found
    for name, site in found.items():
        if isinstance(site, Site) and then.get(name) != site:
            other = then.get(name, "it is not called")
            found[name] = f"while training, {other if isinstance(other, str) else 'other layers read it'}"
    return found


def _of_calls(graph: fx.GraphModule) -> dict[str, Site | str]:
    nodes, modules = behind_output(graph), dict(graph.named_modules())
    uses = Counter(str(node.target) for node in nodes if node.op == "call_module")
    held = Counter(
        id(parameter) for name in uses for parameter in modules[name].parameters(recurse=False)
    )  # parameters that several modules share
    live, found = set(nodes), {}
    for node in nodes:
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d):
            found[str(node.target)] = _Following(node, modules, uses, held, live).outcome()
    return found


class _Following:
    """Where the output channels of a convolution go."""

    def __init__(
        self,
        node: fx.Node,
        modules: dict[str, nn.Module],
        uses: Counter[str],
        held: Counter[int],
        live: set[fx.Node],
    ) -> None:
        self.node, self.modules, self.uses, self.held, self.live = node, modules, uses, held, live
        layer = modules[str(node.target)]
        assert isinstance(layer, nn.Conv2d)
        self.layer = layer
        self.norm, self.activated = "", False
        self.carriers: list[str] = []
        self.readers: dict[str, int] = {}

    def outcome(self) -> Site | str:
        """The site, or why there is none."""
        name = str(self.node.target)
        if self.layer.groups != 1:
            return f"it has {self.layer.groups} groups"
        if not self._own(name):
            return "it is called more than once, or shares its weights"
        queue: list[tuple[fx.Node, str]] = [(self.node, MAP)]
        while queue:
            at, form = queue.pop(0)
            for user in at.users:
                if user not in self.live:
                    continue
                after = self._carried(at, user, form)
                if after not in (MAP, FLAT, ""):
                    return after
                if after:
                    queue.append((user, after))
        if not self.readers:
            return "its channels leave the network"
        return Site(name, self.layer.out_channels, self.norm, self.activated, tuple(self.carriers), self.readers)

    def _own(self, name: str) -> bool:
        """Whether a module's weights are read at one place only."""
        module = self.modules[name]
        kept = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
        shared = any(self.held[id(parameter)] > 1 for parameter in module.parameters(recurse=False))
        return not kept or (self.uses[name] == 1 and not shared)

    def _carried(self, at: fx.Node, user: fx.Node, form: str) -> str:
        """The form in which a step hands the channels on; "" where it ends there; else why it cannot be."""
        module = self.modules.get(str(user.target)) if user.op == "call_module" else None
        kind, said = table.kind(user, self.modules), table.said(user, self.modules)
        if table.of_shape(user):
            return "" if _leaves_channels(user) else f"{said} reads how many channels there are"
        if user.op == "call_module" and not self._own(str(user.target)):
            return f"{said} is called more than once, or shares its weights"
        if is_depthwise(module) and form == MAP:  # type: ignore[arg-type]
            self.carriers.append(str(user.target))
            return MAP
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self._read(user, module, form, said)
        if isinstance(module, nn.BatchNorm2d) and form == MAP:
            if at is self.node and len([one for one in self.node.users if one in self.live]) == 1:
                self.norm = str(user.target)
                self.activated = all(self._activates(after) for after in user.users if after in self.live)
            else:
                self.carriers.append(str(user.target))
            return MAP
        if kind == "same" or (kind == "activation" and self._activates(user)):
            return form
        if kind in ("average", "maximum") and form == MAP:
            return _pooled(user, module) or f"{said} averages over other axes than those of the image"
        if kind == "rearrange" and _flattens(user, module):
            return FLAT
        return f"{said} does not carry each channel on its own"

    def _read(self, user: fx.Node, module: nn.Conv2d | nn.Linear, form: str, said: str) -> str:
        channels = self.layer.out_channels
        if isinstance(module, nn.Conv2d):
            if module.groups != 1 or form != MAP or module.in_channels != channels:
                return f"{said} reads them in {module.groups} groups"
            self.readers[str(user.target)] = 1
            return ""
        if form != FLAT or module.in_features % channels:
            return f"{said} reads along another axis than that of the channels"
        self.readers[str(user.target)] = module.in_features // channels
        return ""

    def _activates(self, node: fx.Node) -> bool:
        """Whether a step is an activation that leaves zero zero."""
        if table.kind(node, self.modules) != "activation":
            return False
        if node.op == "call_module":
            return type(self.modules[str(node.target)]).__name__.lower() in _ZERO_STAYS
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return name in _ZERO_STAYS


def _pooled(node: fx.Node, module: nn.Module | None) -> str:
    """The form behind a pool; "" for a mean over other axes than those of the image."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if module is not None or name != "mean":
        return MAP
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    keep = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    if not isinstance(axes, (list, tuple)) or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return ""
    return MAP if keep else FLAT


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a step puts all that an image has, channel by channel, into one dimension."""
    if module is not None:
        return isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim in (-1, 3)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    given = list(node.args[1:])
    if name == "flatten":
        start = node.kwargs.get("start_dim", given[0] if given else 0)
        return bool(start == 1) and node.kwargs.get("end_dim", given[1] if len(given) > 1 else -1) in (-1, 3)
    if name in ("view", "reshape"):
        sizes = list(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else given
        first, last = sizes if len(sizes) == 2 else (None, None)
        return isinstance(first, fx.Node) and table.is_size(first) and isinstance(last, int) and last == -1
    return False


def _leaves_channels(node: fx.Node) -> bool:
    """Whether a step that reads a shape leaves its second number, how many channels there are, unread."""
    fine = (0, 2, 3)
    if node.op == "call_method" and node.target == "size" and len(node.args) > 1:
        return any(node.args[1] is number for number in fine)
    if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
        return all(
            user.target is operator.getitem and any(user.args[1] is number for number in fine) for user in node.users
        )
    return node.target is getattr and node.args[1] in ("dtype", "device", "ndim")


@dataclass(frozen=True)
class Wire:
    """A masked convolution: its normalisation, whose output the mask multiplies, and the layer that reads it."""

    norm: str
    reader: str


def wires(model: nn.Module) -> dict[str, Wire]:
    """The convolutions that are masked, in the order of the forward pass.

    Args:
        model: a VGG, or a ResNet whose blocks hold conv1 and conv2 (basic or bottleneck).
    Returns: dotted name of the convolution -> its wire. VGG: every convolution but the first, the last one being read
        by the first Linear layer; ResNet: the first convolution of each block.
    Raises: DynamicError for another network.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098; the position of the mask, behind the normalisation
        and before the ReLU, is that of the released code.
    """
    free = gated_sites(model)
    if isinstance(model, VGG):
        names = list(free)[1:]
    else:
        there = {name for name, _ in model.named_modules()}
        names = [name for name in free if name.endswith(".conv1") and f"{name[: -len('conv1')]}conv2" in there]
    if not names:
        raise DynamicError(
            f"{type(model).__name__} is neither a VGG nor a ResNet whose blocks hold conv1 and conv2: "
            "layerwise channel selection takes one of these from lib.models"
        )
    return {name: Wire(free[name].norm, next(iter(free[name].readers))) for name in names}
