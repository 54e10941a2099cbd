"""Narrower networks: physically fewer channels, with fresh weights or with those that stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib.dynamic.channels import Site, is_depthwise, sites
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.search import Structure
from lib.graph import copied
from lib.models import VGG, BottleneckResNet, CifarResNet, MobileNetV1, MobileNetV2
from lib.models.layers import he_normal

HE_NORMAL = (VGG, CifarResNet, BottleneckResNet, MobileNetV1, MobileNetV2)
"""Architectures whose first weights are He's, by fan-in, which is our choice; the others start as torch starts them."""


def build_pruned(model: nn.Module, structure: Structure | Mapping[str, int], *, seed: int) -> nn.Module:
    """A narrower network of the same architecture, with fresh weights.

    Args:
        model: the network to narrow; left as found.
        structure: what to keep, or convolution -> how many output channels it has in the new network.
        seed: of the first weights; the same seed gives the same bytes, on any device.
    Returns: a module of the same class on the same device, in evaluation mode.
    Raises: DynamicError for a convolution that cannot be narrowed so.
    Source: Wang et al. 2020, https://arxiv.org/abs/1909.12579, section 3.3.
    """
    if isinstance(structure, Structure):
        keep = dict(structure.keep)
    else:
        free = sites(model)
        keep = {}
        for layer, count in structure.items():
            width = _site(free, layer).channels
            if not 1 <= count <= width:
                raise DynamicError(f"{layer} cannot have {count} output channels: 1 to {width}")
            keep[layer] = torch.arange(width) < count
    return refresh(shrink(model, keep), seed)


def shrink(model: nn.Module, keep: Mapping[str, Tensor]) -> nn.Module:
    """The network without some channels, the weights of the others as they are.

    It computes what the network computes in which those channels are zero wherever they appear (see `masked`).

    Args:
        model: any network; left as found.
        keep: convolution -> bool (C_out,), True where the channel stays; convolutions not named keep all.
    Returns: a narrower copy, in evaluation mode.
    Raises: DynamicError for a convolution whose channels are not free, or a mask that empties it or does not fit.
    """
    found = _checked(model, keep)
    narrow = copied(model, DynamicError)
    out: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    for layer, site in found.items():
        index = keep[layer].cpu().nonzero()[:, 0]
        out[layer] = index
        out |= dict.fromkeys((site.norm, *site.carriers) if site.norm else site.carriers, index)
        for reader, each in site.readers.items():
            inputs[reader] = (index[:, None] * each + torch.arange(each)).flatten()
    for name in {**out, **inputs}:
        _cut(narrow.get_submodule(name), out.get(name), inputs.get(name))
    return narrow.eval()


@contextmanager
def masked(model: nn.Module, keep: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the channels left out are zero behind every module that holds them.

    Args:
        model, keep: as `shrink` takes them.
    Raises: DynamicError as `shrink` does.
    """

    def times(mask: Tensor) -> Any:
        return lambda _module, _inputs, output: output * mask.to(output).view(1, -1, 1, 1)

    handles = []
    for layer, site in _checked(model, keep).items():
        for name in (layer, *((site.norm,) if site.norm else ()), *site.carriers):
            handles.append(model.get_submodule(name).register_forward_hook(times(keep[layer])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def refresh(model: nn.Module, seed: int) -> nn.Module:
    """Draw every weight anew, as the architecture starts, in place; running statistics start over.

    Args:
        model: any network.
        seed: of the weights, drawn on the CPU.
    Returns: the model.
    """
    where = next(model.parameters()).device
    model.cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        if isinstance(model, HE_NORMAL):
            he_normal(model)
    return model.to(where)


def _checked(model: nn.Module, keep: Mapping[str, Tensor]) -> dict[str, Site]:
    """The sites of the layers that are masked."""
    free = sites(model)
    for layer, mask in keep.items():
        width = _site(free, layer).channels
        if mask.dtype != torch.bool or mask.shape != (width,):
            raise DynamicError(f"{layer}: a mask is bool ({width},), not {mask.dtype} {tuple(mask.shape)}")
        if not mask.any():
            raise DynamicError(f"{layer} would lose all {width} channels: keep at least one")
    return {layer: free[layer] for layer in keep}


def _site(free: Mapping[str, Site], layer: str) -> Site:
    if layer not in free:
        raise DynamicError(f"the output channels of {layer} are not free: one of {', '.join(free)}")
    return free[layer]


def _cut(module: Any, out: Tensor | None, inputs: Tensor | None) -> None:
    """Leave a module only some of its output and input channels, in place, by torch-pruning."""
    import torch_pruning as tp

    asked = [parameter.requires_grad for parameter in module.parameters()]
    if isinstance(module, nn.BatchNorm2d):
        tp.prune_batchnorm_out_channels(module, _others(out, module.num_features))
    elif isinstance(module, nn.Linear):
        tp.prune_linear_in_channels(module, _others(inputs, module.in_features))
    elif is_depthwise(module):
        tp.prune_depthwise_conv_out_channels(module, _others(out, module.out_channels))
    else:
        tp.prune_conv_out_channels(module, _others(out, module.out_channels))
        tp.prune_conv_in_channels(module, _others(inputs, module.in_channels))
    for parameter, flag in zip(module.parameters(), asked, strict=True):
        parameter.requires_grad_(flag)


def _others(kept: Tensor | None, count: int) -> list[int]:
    """The positions that go."""
    return [] if kept is None else sorted(set(range(count)) - set(kept.tolist()))
