"""Error-inducing features, and how much each weight of a layer contributes to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lib.graph.layout import PLAIN, Layout
from lib.lancet.locating.tail import Network, Point, as_columns

FORMULAS = ("constant", "both")
ALPHA = 0.5  # what is added to the gradient's share, so that a difference of features never counts for nothing


def columns(module: nn.Conv2d | nn.Linear, inputs: Tensor, layout: Layout = PLAIN) -> Tensor:
    """What a layer's weights are multiplied with.

    Args:
        inputs: (K, C, H, W) of a convolution; (K, ..., I) of a Linear.
        layout: where the K images lie in it.
    Returns: (K, G, J, L): for each group, J inputs of an output and L places where they are read;
        `weight.view(G, O / G, J) @ columns` is the layer's output without its bias.
    """
    if isinstance(module, nn.Linear):
        inputs = layout.rows(inputs)
        return inputs.reshape(len(inputs), -1, inputs.shape[-1]).transpose(1, 2)[:, None]
    if module.padding_mode != "zeros" or module.padding == "same":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        inputs, padding = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode), (0, 0)
    else:
        padding = (0, 0) if module.padding == "valid" else module.padding  # type: ignore[assignment]
    unfolded = F.unfold(inputs, module.kernel_size, module.dilation, padding, module.stride)
    read = unfolded.view(len(inputs), module.groups, -1, unfolded.shape[-1])
    if layout.pieces == 1:
        return read
    read = layout.rows(read).movedim(1, 3)  # (K, G, J, pieces, L)
    return read.flatten(3)


def error_features(
    network: Network,
    points: Sequence[Point],
    values: Mapping[fx.Node, Tensor],
    others: Mapping[fx.Node, Tensor],
    labels: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The error-inducing feature of each layer, and the weights that the gradient gives to the difference.

    EI = df (G / max G + 0.5) with df = f(x) - f(x') and G = |d CE / d f| at f(x). Where a network has paths around
    the feature, they carry the values of x.

    Args:
        network: in float64.
        points: the layers.
        values, others: what `network.record` gives for the wrong images x and for their companions x'.
        labels: int64 (K,), the true ones.
    Returns: layer -> (EI, G / max G + 0.5), each (K, *feature.shape), images first.

    Source: Zhao et al. 2021, section on error-inducing features.
    """
    behind = {node for point in points for node in (point.node, *point.behind)}
    with torch.enable_grad():  # what no layer changes is not computed again
        known = {node: value for node, value in values.items() if node not in behind}
        for point in points:
            if point.source in known:
                known[point.source] = known[point.source].detach().requires_grad_()
        known = network.run([node for node in network.nodes if node in behind], known)
        loss = F.cross_entropy(known[network.logits], labels, reduction="sum")
        features = list(dict.fromkeys(point.feature for point in points))
        gradients = dict(zip(features, torch.autograd.grad(loss, [known[node] for node in features]), strict=True))
    found = {}
    for point in points:
        layout = network.layout(point.feature)
        strength = layout.rows(gradients[point.feature]).abs().flatten(1)
        top = strength.amax(1, keepdim=True)
        emphasis = strength / torch.where(top > 0, top, 1) + ALPHA
        difference = layout.rows(values[point.feature]) - layout.rows(others[point.feature])
        emphasis = emphasis.view_as(difference)
        found[point.layer] = (difference * emphasis, emphasis)
    return found


def importance(
    network: Network,
    point: Point,
    values: Mapping[fx.Node, Tensor],
    others: Mapping[fx.Node, Tensor],
    feature: Tensor,
    emphasis: Tensor,
    formula: str = "constant",
    signed: bool = False,
) -> Tensor:
    """How much each weight of a layer contributes to the error-inducing feature, of each pair.

    IV(w) = |d ||EI||_2 / d w|; G is held fixed.

    Args:
        values, others: what `network.record` gives for x and x'.
        feature, emphasis: the layer's, from `error_features`.
        formula: "constant" holds f(x') fixed, as the released code does; "both" differentiates it too.
        signed: max(0, w d||EI||/dw) instead: only weights whose removal makes the feature smaller. Ours.
    Returns: float (K, *weight.shape), never negative.

    Source: Zhao et al. 2021, section on evaluating neurons.
    """
    norm = feature.flatten(1).norm(dim=1).clamp_min(torch.finfo(feature.dtype).tiny)
    pull = feature * emphasis / norm.view(-1, *[1] * (feature.ndim - 1))
    found = _weight_gradient(network, point, values, pull)
    if formula == "both":
        found = found - _weight_gradient(network, point, others, pull)
    return (found * point.module.weight).clamp_min_(0) if signed else found.abs_()


def _weight_gradient(network: Network, point: Point, values: Mapping[fx.Node, Tensor], pull: Tensor) -> Tensor:
    """d (pull . feature) / d weight, of each image; what reaches the feature around the layer is fixed."""
    outputs = values[point.node]
    pull = network.layout(point.feature).back(pull)
    if point.chain:
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            known = {node: value for node, value in values.items() if node not in point.chain}
            known[point.node] = outputs
            reached = network.run(point.chain, known)[point.feature]
            (pull,) = torch.autograd.grad(reached, outputs, pull)
    module = point.module
    read = columns(module, values[point.source], network.layout(point.source))
    pull = as_columns(module, network.layout(point.node), pull).reshape(len(read), read.shape[1], -1, read.shape[-1])
    return (pull @ read.transpose(2, 3)).view(len(pull), *module.weight.shape)
