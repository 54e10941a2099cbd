"""What a dynamic network must beat: one mask a layer for all images at the same MACs, and masks chosen blindly."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lib.dynamic.cost import Prices
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.budget import image_macs, kept_counts, own_macs
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.scratch.build import shrink
from lib.models.resnet import PaddedShortcut

STEPS = 30  # halvings of the factor that the counts are brought to the same MACs with
CHOICES = ("decided", "static", "random", "uniform", "top", "untrained")


@contextmanager
def choosing(
    lcs: LayerwiseChannelSelection, choice: str, images: Tensor, seed: int
) -> Iterator[LayerwiseChannelSelection]:
    """Inside, a copy of the network whose masks are chosen in another way.

    Args:
        lcs: with trained, thresholded masks; left as found.
        choice: "decided" by the units; "static", the rows' mean, cut to the same MACs; rows "random" at the frequencies
            of the units' choices, or "uniform"; the "top" row of each layer; "untrained", by units drawn anew.
        images: (N, C, H, W) in [0, 1], not test images: what frequencies and static masks are measured with.
        seed: of what is drawn.
    Raises: DynamicError for another choice.
    """
    if choice not in CHOICES:
        raise DynamicError(f"no choice {choice!r}: one of {', '.join(CHOICES)}")
    other = untrained(lcs, images, seed) if choice == "untrained" else copy.deepcopy(lcs)
    shares = lcs.frequencies(images)
    how: Any = nullcontext()
    if choice == "static":
        how = other.choosing("static", masks=static_masks(lcs, images))
    elif choice in ("random", "uniform"):
        how = other.choosing("random", shares if choice == "random" else None, seed=seed)
    elif choice == "top":
        how = other.choosing("top", shares)
    with how:
        yield other


@torch.no_grad()
def narrowed(lcs: LayerwiseChannelSelection) -> nn.Module:
    """A network whose rows are all the same, as an ordinary narrower one, the mask folded into batch normalisation.

    Args:
        lcs: of one mask a layer, as `collapse` leaves it; of others the first row counts.
    """
    made, keep = lcs.plain(), {}
    for layer, wire in lcs.wires.items():
        mask = lcs.unit(layer).masks[0]
        norm: Any = made.get_submodule(wire.norm)
        norm.weight.mul_(mask)
        norm.bias.mul_(mask)
        keep[layer] = (mask != 0).cpu()
        if not keep[layer].any():
            keep[layer][0] = True  # a layer cannot be empty; this channel is zero
    return shrink(made, keep)


@torch.no_grad()
def static_masks(lcs: LayerwiseChannelSelection, images: Tensor) -> dict[str, Tensor]:
    """One mask a layer with the same MACs as the images' own choices have in the mean.

    Of the rows' mean, each as often as the images choose it, the largest entries are kept: in every layer as many as
    the images keep there in the mean, times one factor for all layers that brings the whole to the same MACs.

    Args:
        lcs: with trained, thresholded masks.
        images: (N, C, H, W) in [0, 1]; not test images.
    Returns: layer -> (C_out,); for `choosing("static", masks=...)` or `collapse`. Its MACs differ from the mean of the
        images' by less than one channel a layer is worth; ties between equal entries go to the earlier channel.
    """
    frequencies = lcs.frequencies(images)
    average = lcs.average_masks(frequencies)
    prices = Prices.of(lcs.network, tuple(images.shape[1:]))
    wanted = image_macs(lcs, images).double().mean().item() - own_macs(lcs)
    counts = {layer: kept_counts({layer: lcs.unit(layer).masks})[layer] for layer in lcs.layers}
    mean = {layer: (frequencies[layer].cpu() * counts[layer].cpu()).sum().item() for layer in lcs.layers}

    def at(factor: float) -> dict[str, int]:
        most = {layer: int((average[layer] != 0).sum()) for layer in lcs.layers}
        return {layer: max(1, min(most[layer], round(factor * mean[layer]))) for layer in lcs.layers}

    low, high = 0.0, 2.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if prices.total(at(middle)) <= wanted else (low, middle)
    nearest = min((low, high), key=lambda factor: abs(prices.total(at(factor)) - wanted))
    return {layer: _top(average[layer], count) for layer, count in at(nearest).items()}


@torch.no_grad()
def static_network(lcs: LayerwiseChannelSelection, masks: Mapping[str, Tensor]) -> nn.Module:
    """An ordinary network that computes what the one with units does under fixed masks.

    Args:
        lcs: in evaluation mode; left as found.
        masks: layer -> (C_out,).
    Returns: a copy of the wrapped network; a mask multiplies weight and bias of the normalisation that it follows, and
        a shortcut padded with zeros is a 1x1 convolution with ones for its weights, which graph readers know.
    """
    plain = lcs.plain()
    for name, shortcut in list(plain.named_modules()):
        if isinstance(shortcut, PaddedShortcut):
            width = plain.get_submodule(name.rpartition(".")[0]).get_submodule("conv1").in_channels
            plain.set_submodule(name, _as_convolution(shortcut, int(width)).to(lcs.device))  # type: ignore[arg-type]
    for layer in lcs.layers:
        for parameter in plain.get_submodule(lcs.wires[layer].norm).parameters():  # weight and bias
            parameter.mul_(masks[layer].to(parameter))
    return plain.eval()


def _as_convolution(shortcut: PaddedShortcut, inputs: int) -> nn.Conv2d:
    made = nn.Conv2d(inputs, shortcut.before + inputs + shortcut.after, 1, shortcut.stride, bias=False)
    made.weight.zero_()
    made.weight[shortcut.before : shortcut.before + inputs, :, 0, 0] = torch.eye(inputs)
    return made


def untrained(lcs: LayerwiseChannelSelection, images: Tensor, seed: int = 0) -> LayerwiseChannelSelection:
    """The same network and masks with decision units as they are before training.

    Args:
        lcs: trained; left as found.
        images: training images that standardised units measure their mean and deviation with.
        seed: of the units' weights.
    """
    fresh = copy.deepcopy(lcs)
    generator = torch.Generator().manual_seed(seed)
    for layer in fresh.layers:
        unit = fresh.unit(layer)
        with torch.no_grad():
            unit.weight.copy_(torch.randn(unit.weight.shape, generator=generator))
        unit.normalise()
    fresh.measure_units(images)
    return fresh


def entropies(frequencies: Mapping[str, Tensor]) -> dict[str, float]:
    """Entropy of each layer's choices in bits; 0 where all images choose the same row, log2 m at the most."""
    made = {}
    for layer, shares in frequencies.items():
        used = shares[shares > 0].double()
        made[layer] = max(0.0, -(used * used.log2()).sum().item())
    return made


def _top(mask: Tensor, count: int) -> Tensor:
    kept = torch.zeros_like(mask)
    places = mask.argsort(descending=True, stable=True)[:count]
    kept[places] = mask[places]
    return kept
