"""A network that computes only the chosen channels: smaller convolutions, a batch grouped by decision.

Channels whose mask is zero are left out of their convolution and of the layer that reads them. The weights of a pair
(decision of layer l, decision of layer l+1) are cut out once and kept; images that made the same decision run together.
Batch normalisation is folded into the convolution before it, and weights are packed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.compute import evaluation
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.lcs.units import DecisionUnit
from lib.graph import behind_output, copied, read, structure
from lib.models import VGG


@dataclass
class _Group:
    """Images of a batch (None: all, in order) that hold the same channels: those of a row of the layer before."""

    images: Tensor | None
    values: Tensor
    row: int  # -1: all channels


class _Step(nn.Module):
    """A masked convolution with its unit, the ReLU behind it, and the modules that follow."""

    weight: Tensor
    bias: Tensor
    masks: Tensor
    score: Tensor
    shift: Tensor

    def __init__(self, conv: nn.Conv2d, unit: DecisionUnit, after: Sequence[nn.Module], align: int) -> None:
        super().__init__()
        self.convolve = Convolution(conv)
        self.register_buffer("weight", conv.weight.detach().clone())
        self.register_buffer("bias", _bias(conv))
        masks = unit.masks.detach().clone()
        self.register_buffer("masks", masks)
        score, shift = unit.weight.detach() * unit.logit_scale, torch.zeros(len(masks), device=masks.device)
        if unit.form == "standardised":  # the deviation goes into the weights, the mean into a constant
            score = score * (unit.variance + 1e-5).rsqrt()
            shift = -score @ unit.mean
        self.register_buffer("score", score)
        self.register_buffer("shift", shift)
        self.after = nn.Sequential(*after)
        self.kept = [_kept(mask, align) for mask in masks.cpu()]

    def rows(self, values: Tensor, kept: Tensor | None) -> Tensor:
        """The row of each image. What is left out would be zero, and the input is a ReLU's output already."""
        score = self.score if kept is None else self.score[:, kept.to(self.score.device)]
        return F.linear(values.mean(dim=(2, 3)), score, self.shift).argmax(1)


class _Chain(nn.Module):
    """Masked convolutions that read one another, and the layer at the end that reads the last of them."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, steps: Sequence[_Step], reader: Any, layout: torch.memory_format) -> None:
        super().__init__()
        self.steps: Any = nn.ModuleList(steps)
        self.layout = layout
        self.convolve = Convolution(reader) if isinstance(reader, nn.Conv2d) else None
        self.register_buffer("weight", reader.weight.detach().clone())
        self.register_buffer("bias", None if reader.bias is None else reader.bias.detach().clone())
        self.slices: dict[tuple[int, int, int], tuple[Tensor, Tensor | None]] = {}

    def _apply(self, *args: Any, **kwargs: Any) -> _Chain:
        self.slices.clear()  # they are cut from weights that move or change type
        return super()._apply(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        groups = [_Group(None, x, -1)]
        for place, step in enumerate(self.steps):
            groups = self._advance(place, step, groups)
        made = [(group.images, self._read(group)) for group in groups]
        if made[0][0] is None:
            return made[0][1]
        parts = torch.cat([values for _, values in made])
        return torch.empty_like(parts).index_copy_(
            0, torch.cat([index for index, _ in made if index is not None]), parts
        )

    def _advance(self, place: int, step: _Step, groups: list[_Group]) -> list[_Group]:
        parts: dict[int, list[tuple[Tensor | None, Tensor]]] = {}
        for group in groups:
            rows = step.rows(group.values, self._channels(place - 1, group.row))
            used = rows.unique().tolist() if len(rows) > 1 else rows.tolist()
            for row in used:
                images, values = group.images, group.values
                if len(used) > 1:
                    index = (rows == row).nonzero()[:, 0]
                    images = index if images is None else images[index]
                    values = _some(values, index)
                weight, bias = self._slice(place, group.row, row, values)
                parts.setdefault(row, []).append((images, step.convolve(values, weight, bias, relu=True)))
        joined = []
        for row, found in parts.items():
            images, values = found[0]
            if len(found) > 1:
                values = torch.cat([part for _, part in found])
                images = torch.cat([index for index, _ in found if index is not None])
            joined.append(_Group(images, step.after(values), row))
        return joined

    def _read(self, group: _Group) -> Tensor:
        weight, bias = self._slice(len(self.steps), group.row, -1, group.values)
        if self.convolve is None:
            return F.linear(group.values.flatten(1), weight, bias)
        return self.convolve(group.values, weight, bias)

    def _channels(self, place: int, row: int) -> Tensor | None:
        return None if row < 0 else self.steps[place].kept[row]

    def _slice(self, place: int, before: int, row: int, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights of a step (or of the reader) between two decisions, cut out and packed on first use."""
        if (place, before, row) not in self.slices:
            weight, bias = self._cut(place, before, row)
            run = self.convolve if place == len(self.steps) else self.steps[place].convolve
            weight = weight if run is None else run.packed(weight, values)
            self.slices[place, before, row] = weight, bias
        return self.slices[place, before, row]

    def _cut(self, place: int, before: int, row: int) -> tuple[Tensor, Tensor | None]:
        channels = self._channels(place - 1, before) if place else None
        if place == len(self.steps):
            weight, bias = self.weight, self.bias
            if channels is not None and self.convolve is None:
                each = weight.shape[1] // len(self.steps[-1].weight)  # positions a channel has behind the Flatten
                channels = (channels[:, None] * each + torch.arange(each)).flatten()
        else:
            step = self.steps[place]
            kept = step.kept[row].to(step.weight.device)
            mask = step.masks[row][kept]
            weight, bias = step.weight[kept] * mask[:, None, None, None], step.bias[kept] * mask
        if channels is not None:
            weight = weight[:, channels.to(weight.device)]
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=self.layout)
        return weight.contiguous() if weight.ndim == 2 else weight, bias


class SkippingNetwork(nn.Module):
    """A network with decision units that runs only what each image chose.

    Its outputs are those of the masked network in evaluation mode, up to float32's rounding. BN and masks are folded
    into the weights, so nothing of it can be trained.

    Args:
        lcs: trained; left as found. A VGG, or a ResNet whose blocks have the ReLU of `bn<k>` as `relu<k>`.
        align: the kept channels of a row are filled up to a multiple of it with channels whose weights are zero; the
            convolutions of a CPU are slow at odd counts. 1: nothing is filled up.
        channels_last: memory format of weights and images.
    Raises: DynamicError for a network whose blocks it cannot rebuild.
    Source: ours; Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098, counts FLOPs.
    """

    def __init__(self, lcs: LayerwiseChannelSelection, align: int = 8, channels_last: bool = True) -> None:
        super().__init__()
        if align < 1:
            raise DynamicError(f"align is {align}: channels are filled up to a multiple of 1 or more")
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = folded(lcs.network).to(memory_format=self.layout)
        if isinstance(self.network, VGG):
            self._rebuild_vgg(lcs, align)
        else:
            self._rebuild_blocks(lcs, align)
        packed(self.network)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W) in [0, 1]."""
        return self.network(images.contiguous(memory_format=self.layout))

    def memory(self) -> int:
        """Bytes of the slices that are kept now."""
        chains = (module for module in self.modules() if isinstance(module, _Chain))
        tensors = [
            tensor for chain in chains for pair in chain.slices.values() for tensor in pair if tensor is not None
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _rebuild_vgg(self, lcs: LayerwiseChannelSelection, align: int) -> None:
        network: Any = self.network
        children = list(network.features.named_children())
        names = [f"features.{name}" for name, _ in children]
        starts = [names.index(layer) for layer in lcs.layers]
        steps = []
        for start, end in zip(starts, [*starts[1:], len(children)], strict=True):
            after = [
                module for _, module in children[start + 1 : end] if not isinstance(module, (nn.ReLU, nn.Identity))
            ]
            steps.append(_Step(children[start][1], lcs.unit(names[start]), after, align))
        reader = lcs.wires[lcs.layers[-1]].reader
        network.features = nn.Sequential(*(module for _, module in children[: starts[0]]))
        network.flatten = nn.Identity()
        network.set_submodule(reader, _Chain(steps, network.get_submodule(reader), self.layout))

    def _rebuild_blocks(self, lcs: LayerwiseChannelSelection, align: int) -> None:
        network = self.network
        for layer, wire in lcs.wires.items():
            relu = wire.norm.replace("bn", "relu")
            there = dict(network.named_modules())
            if not isinstance(there.get(relu), nn.ReLU):
                raise DynamicError(f"{wire.norm} is not followed by a ReLU named {relu}: its block cannot be rebuilt")
            step = _Step(there[layer], lcs.unit(layer), [], align)
            # The block's own forward goes on: its input reaches the chain, which stands where the reader stood.
            chain = _Chain([step], there[wire.reader], self.layout)
            for name in (layer, wire.norm, relu):
                network.set_submodule(name, nn.Identity())
            network.set_submodule(wire.reader, chain)


def _some(values: Tensor, index: Tensor) -> Tensor:
    """Some images of a batch in the memory format that they have; index_select alone makes them contiguous."""
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return values.index_select(0, index)


def _bias(conv: nn.Conv2d) -> Tensor:
    return torch.zeros(len(conv.weight), device=conv.weight.device) if conv.bias is None else conv.bias.detach().clone()


def _kept(mask: Tensor, align: int) -> Tensor:
    """Channels that a row computes, in order: those that are not zero, filled up to a multiple of `align`."""
    count = max(1, int((mask != 0).sum()))
    count = min(len(mask), -(-count // align) * align)
    return (mask != 0).int().argsort(descending=True, stable=True)[:count].sort().values


def norms_after(model: nn.Module) -> dict[str, str]:
    """Convolution -> the BatchNorm2d that alone reads it, by dotted names, from the network's torch.fx graph."""
    graph = read(structure(model, DynamicError), DynamicError)
    nodes, modules = behind_output(graph), dict(graph.named_modules())
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    found = {}
    for node in nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.Conv2d):
            continue
        readers = [user for user in node.users if user in nodes]
        users = [str(user.target) for user in readers if user.op == "call_module"]
        alone = len(readers) == len(users) == 1 and calls[str(node.target)] == calls[users[0]] == 1
        if alone and isinstance(modules[users[0]], nn.BatchNorm2d):
            found[str(node.target)] = users[0]
    return found


class Convolution:
    """How a convolution runs, apart from its weights.

    oneDNN brings a convolution's weights into its own layout at every call, which for a few small images takes longer
    than the convolution: packed weights are in that layout already. On other devices nothing is packed.

    Args: conv: where stride, padding, dilation and groups are taken from.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.padding: Any = list(conv.padding)
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.groups = conv.groups

    def packed(self, weight: Tensor, values: Tensor) -> Tensor:
        """The weights as oneDNN wants them for images as `values`; as they are where it does not run."""
        able = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        if not able or not hasattr(torch.ops.mkldnn, "_reorder_convolution_weight"):
            return weight
        places = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *places, list(values.shape))

    def __call__(self, values: Tensor, weight: Tensor, bias: Tensor | None, relu: bool = False) -> Tensor:
        """The convolution of `values`, (N, C, H, W), with plain or packed weights, and the ReLU where wanted."""
        places: Any = (self.padding, self.stride, self.dilation, self.groups)
        if weight.is_mkldnn:
            after: Any = ("relu" if relu else "none", [], "")
            return torch.ops.mkldnn._convolution_pointwise(values, weight, bias, *places, *after)
        made = torch.conv2d(values, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return made.relu_() if relu else made


class PackedConv2d(nn.Module):
    """A convolution without training, whose weights are packed at its first batch."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.plain, self.run = conv, Convolution(conv)
        self.weight: Tensor | None = None

    def _apply(self, *args: Any, **kwargs: Any) -> PackedConv2d:
        self.weight = None
        return super()._apply(*args, **kwargs)

    def forward(self, values: Tensor) -> Tensor:
        if self.weight is None:
            self.weight = self.run.packed(self.plain.weight.detach(), values)
        return self.run(values, self.weight, self.plain.bias)


def packed(model: nn.Module) -> nn.Module:
    """The network with each convolution packed, and ReLUs in place: changed, and returned."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            module.inplace = True
        elif isinstance(module, nn.Conv2d):
            model.set_submodule(name, PackedConv2d(module))
    return model


def folded(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode with every BN folded into its convolution, and an Identity in its place.

    Args: model: any network that torch.fx traces; left as found.
    Returns: a network of the same structure and, up to rounding, the same outputs; it cannot be trained.
    """
    made = copied(model, DynamicError).eval()
    for conv, norm in norms_after(made).items():
        pair: Any = (made.get_submodule(conv), made.get_submodule(norm))
        fused = fuse_conv_bn_eval(*pair)
        made.set_submodule(conv, fused)
        made.set_submodule(norm, nn.Identity())
    return made.requires_grad_(False)


@torch.no_grad()
def same(one: nn.Module, other: nn.Module, images: Tensor, rtol: float = 1e-3) -> bool:
    """Whether two networks give the same logits in float32, within `rtol` of the largest, and the same arg-max."""
    with evaluation(one), evaluation(other):
        left, right = one(images), other(images)
    near = (left - right).abs().max() <= rtol * left.abs().max()
    return bool(near) and torch.equal(left.argmax(1), right.argmax(1))
