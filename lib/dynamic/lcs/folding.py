"""Batch normalisation folded into the convolution before it, and weights packed, as an evaluated network can be run."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.compute import evaluation
from lib.dynamic.errors import DynamicError
from lib.graph import behind_output, copied, read, structure


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

    def _apply(self, *args: Any, **kwargs: Any) -> "PackedConv2d":
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
