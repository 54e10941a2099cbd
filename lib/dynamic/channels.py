"""Which channels of a network can be left out, and what else must go with them: read off its torch.fx graph.

A convolution's output channels are free when they reach no addition or concatenation: only layers that read them
(convolutions and Linear layers), by way of modules that carry each channel on its own (batch normalisation,
activations, pooling, depthwise convolutions). In a VGG these are all convolutions, in a ResNet with basic blocks the
first of each block, in one with bottlenecks the first two, in a MobileNet the stem, pointwise and expansion layers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional as F

from lib.dynamic.errors import DynamicError

_CARRY = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten,
    nn.BatchNorm2d,
)  # fmt: skip
_CARRY_FUNCTIONS = {F.relu, F.relu6, torch.relu, torch.flatten}
_ACTIVATIONS = (nn.ReLU, nn.ReLU6)


@dataclass(frozen=True)
class Site:
    """A convolution whose output channels are free.

    Attributes:
        layer: dotted name of the convolution.
        channels: how many it has.
        norm: the BatchNorm2d that follows it at once; "" where there is none.
        activated: whether a ReLU (or ReLU6) follows this normalisation.
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
    graph = _traced(model)
    modules = dict(model.named_modules())
    uses = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    found: dict[str, Site] = {}
    for node in graph.nodes:
        if node.op == "call_module" and uses[str(node.target)] == 1:
            site = _followed(node, modules, uses)
            if site is not None:
                found[site.layer] = site
    return found


def gated_sites(model: nn.Module) -> dict[str, Site]:
    """The sites where pruning from scratch has its gates: behind the normalisation, in front of a ReLU.

    Args:
        model: any network that torch.fx traces.
    Returns: as `sites`, without a MobileNetV2's projections, which no ReLU follows, and without a stem that a block
        and its shortcut's projection both read.
    Raises: DynamicError where no convolution fits.
    Source: Wang et al. 2020, https://arxiv.org/abs/1909.12579, section 3.
    """
    found = {
        name: site for name, site in sites(model).items() if site.norm and site.activated and len(site.readers) == 1
    }
    if not found:
        raise DynamicError(
            f"{type(model).__name__} has no convolution followed by BatchNorm2d and ReLU whose channels reach no "
            "addition: there is nothing that a gate could prune; use a VGG, ResNet or MobileNet of lib.models"
        )
    return found


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(model)
    except Exception as error:  # tracing raises many kinds; each means the same here
        raise DynamicError(
            f"{type(model).__name__} cannot be traced by torch.fx ({error}): give the network itself, not a wrapper "
            "that looks at its input"
        ) from error


def _followed(node: fx.Node, modules: dict[str, nn.Module], uses: Counter[str]) -> Site | None:
    """The site of a convolution's node, or None where its channels are not free."""
    layer = modules[str(node.target)]
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        return None
    norm, activated = "", False
    carriers: list[str] = []
    readers: dict[str, int] = {}
    queue: list[fx.Node] = [node]
    while queue:
        at = queue.pop(0)
        for user in at.users:
            module = modules.get(str(user.target)) if user.op == "call_module" else None
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
                inputs = module.in_features if isinstance(module, nn.Linear) else module.in_channels
                if uses[str(user.target)] > 1 or inputs % layer.out_channels:
                    return None
                readers[str(user.target)] = inputs // layer.out_channels
                continue
            if not _carries(user, module) or (module is not None and uses[str(user.target)] > 1):
                return None
            if isinstance(module, nn.BatchNorm2d) and at is node and len(node.users) == 1:
                norm = str(user.target)
                activated = all(_activates(after, modules) for after in user.users)
            elif isinstance(module, (nn.BatchNorm2d, nn.Conv2d)):
                carriers.append(str(user.target))
            queue.append(user)
    if not readers:  # the channels leave the network
        return None
    return Site(str(node.target), layer.out_channels, norm, activated, tuple(carriers), readers)


def _carries(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return isinstance(module, _CARRY) or is_depthwise(module)
    return node.op == "call_function" and node.target in _CARRY_FUNCTIONS


def _activates(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _ACTIVATIONS)
    return node.op == "call_function" and node.target in (F.relu, F.relu6, torch.relu)
