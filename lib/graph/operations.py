"""What a step of a traced network does: one table for every method that walks networks."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.LayerNorm,
)
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Hardtanh,
        nn.Hardshrink,
        nn.Softshrink,
        nn.Threshold,
        nn.Sigmoid,
        nn.Tanh,
        nn.LogSigmoid,
        nn.Softsign,
    ),
)
# What returns its own argument in evaluation mode.
SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
MODULES: list[tuple[tuple[type[nn.Module], ...], str]] = [
    ((nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d), "convolution"),
    ((nn.Linear,), "linear"),
    (_NORMS, "norm"),
    (_ACTIVATIONS, "activation"),
    (SAME, "same"),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AvgPool1d, nn.AdaptiveAvgPool1d), "average"),
    ((nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.MaxPool1d, nn.AdaptiveMaxPool1d), "maximum"),
    (
        (nn.Flatten, nn.Unflatten, nn.ZeroPad2d, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
        "rearrange",
    ),
]
_ACTIVATION_NAMES = (
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus"),
    *(
        "clamp",
        "clip",
        "clamp_min",
        "clamp_max",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "hardshrink",
        "softshrink",
        "sigmoid",
        "tanh",
        "logsigmoid",
        "softsign",
    ),
)


def _functions(*names: str) -> list[Any]:
    return [getattr(home, name) for home in (F, torch) for name in names if hasattr(home, name)]


FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((operator.add, torch.add), "add"),
    **dict.fromkeys((operator.sub, torch.sub), "subtract"),
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply), "multiply"),
    **dict.fromkeys((operator.truediv, torch.div, torch.true_divide), "divide"),
    operator.neg: "affine",
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate, torch.stack), "concatenate"),
    **dict.fromkeys(_functions(*_ACTIVATION_NAMES), "activation"),
    **dict.fromkeys(_functions("layer_norm", "group_norm", "batch_norm", "instance_norm"), "norm"),
    **dict.fromkeys(_functions("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), "same"),
    **dict.fromkeys((F.avg_pool2d, F.adaptive_avg_pool2d, F.avg_pool1d, F.adaptive_avg_pool1d, torch.mean), "average"),
    **dict.fromkeys((F.max_pool2d, F.adaptive_max_pool2d, torch.max_pool2d, torch.amax), "maximum"),
    **dict.fromkeys((F.max_pool1d, F.adaptive_max_pool1d, torch.max_pool1d), "maximum"),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, F.pad), "rearrange"),
    **dict.fromkeys((torch.permute, torch.transpose, torch.swapaxes, torch.movedim, operator.getitem), "rearrange"),
    **dict.fromkeys((torch.narrow, torch.unflatten, torch.roll, torch.flip), "rearrange"),
    **dict.fromkeys((F.pixel_shuffle, F.pixel_unshuffle, torch.channel_shuffle), "rearrange"),
    **dict.fromkeys((torch.chunk, torch.split, torch.unbind, torch.tensor_split), "parts"),
}
METHODS: dict[str, str] = {
    "add": "add",
    "sub": "subtract",
    **dict.fromkeys(("mul", "multiply"), "multiply"),
    **dict.fromkeys(("div", "true_divide"), "divide"),
    "neg": "affine",
    **dict.fromkeys(_ACTIVATION_NAMES, "activation"),
    **dict.fromkeys(("contiguous", "clone", "to", "type", "type_as", "float", "double", "half", "bfloat16"), "same"),
    **dict.fromkeys(("expand", "expand_as", "repeat", "broadcast_to"), "rearrange"),
    **dict.fromkeys(("view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose"), "rearrange"),
    **dict.fromkeys(("swapaxes", "movedim", "narrow", "unflatten", "roll", "flip", "view_as", "select"), "rearrange"),
    **dict.fromkeys(("chunk", "split", "unbind", "tensor_split"), "parts"),
    "mean": "average",
    "amax": "maximum",
}
# Tensors that are as large as their first argument and hold nothing of it.
FILLED = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
_SHAPE_METHODS = {"size", "dim", "numel", "nelement", "ndimension", "stride", "element_size", "get_device"}
_SHAPE_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda", "layout"}


def kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """What a step does with its first tensor; "" for what the table does not know."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return next((name for types, name in MODULES if isinstance(module, types)), "")
    if node.op == "call_method":
        return METHODS.get(str(node.target), "")
    if node.op == "call_function":
        if getattr(node.target, "__name__", "") == "stochastic_depth":
            return "same"
        return FUNCTIONS.get(node.target, "")
    return ""


def of_shape(node: fx.Node) -> bool:
    """Whether a step reads a tensor's shape, type or device alone."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    if node.op != "call_function":
        return False
    return node.target is len or (node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES)


def is_size(node: fx.Node) -> bool:
    """Whether a step's value is made of sizes, as x.size(0) * 2, and so is no tensor."""
    if of_shape(node):
        return True
    plain = node.op == "call_function" and getattr(node.target, "__module__", "") in ("_operator", "math", "builtins")
    return plain and bool(node.all_input_nodes) and all(is_size(value) for value in node.all_input_nodes)


def where(node: fx.Node) -> str:
    """Dotted name of the module in whose forward a step stands."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return (list(stack.values())[-1][0] if stack else "") or "the network itself"


def said(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """A step in words, for messages."""
    if node.op == "call_module":
        return f"{type(modules[str(node.target)]).__name__} at {str(node.target)!r}"
    if node.op == "call_method":
        return f"method .{node.target}() in {where(node)!r}"
    return f"{getattr(node.target, '__name__', node.target)}() in {where(node)!r}"
