"""What a network costs: parameters, multiply-accumulates (MACs), measured latency.

Convention, everywhere in this package: FLOPs are 2 x MAC, as torch.utils.flop_counter counts them: convolutions and
matrix products only. Normalisation, activations, pooling and additions count nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lib import compute
from lib.dynamic.channels import sites
from lib.dynamic.errors import DynamicError


@dataclass(frozen=True)
class Latency:
    """Seconds an image: median over the repeats, with the quartiles."""

    median: float
    low: float
    high: float


def parameters(model: nn.Module) -> int:
    """How many numbers training changes.

    Args:
        model: any network.
    Returns: elements of all parameters; buffers, as BN's running statistics, are none.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """FLOPs of one image, counted by torch.utils.flop_counter: 2 for each multiply-accumulate.

    Args:
        model: left in the mode it is in.
        shape: (channels, height, width) of an image.
    Returns: of convolutions and matrix products; nothing else counts.
    """
    with FlopCounterMode(display=False) as counter:
        _forward(model, shape)
    return int(counter.get_total_flops())


def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one image: half of `flops`.

    Args:
        model, shape: as `flops` takes them.
    """
    return flops(model, shape) // 2


def layer_macs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-accumulates of one image, layer by layer.

    Args:
        model, shape: as `flops` takes them.
    Returns: dotted name of each Conv2d and Linear layer that runs -> its MACs. Their sum is `macs` where the network
        does nothing else that counts.
    """
    found: dict[str, int] = {}
    handles = []

    def count(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            each = weight[0].numel()  # products behind one output: inputs of its group, times the kernel
            found[name] = found.get(name, 0) + output.numel() * each

        return hook

    try:
        for name, layer in model.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                handles.append(layer.register_forward_hook(count(name)))
        _forward(model, shape)
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass(frozen=True)
class Prices:
    """A network's MACs as a function of how many channels its free convolutions keep.

    Attributes:
        fixed: MACs of the layers that no choice changes.
        terms: (MACs for one channel of each source, the one or two sources) of every other layer; a source is the
            convolution whose output channels count.
        channels: how many output channels each source has.
    """

    fixed: int
    terms: tuple[tuple[int, tuple[str, ...]], ...]
    channels: Mapping[str, int]

    @staticmethod
    def of(model: nn.Module, shape: tuple[int, ...]) -> Prices:
        """Prices of a network for images of a shape.

        Args:
            model: any network that torch.fx traces.
            shape: (channels, height, width) of an image.
        """
        free = sites(model)
        spent = layer_macs(model, shape)
        source = {reader: site for site in free.values() for reader in site.readers}
        carried = {name: site for site in free.values() for name in site.carriers}
        fixed, terms = 0, []
        for name, count in spent.items():
            behind = [site.layer for site in (source.get(name), free.get(name)) if site is not None]
            if name in carried:
                behind = [carried[name].layer]
            for layer in behind:
                count //= free[layer].channels
            if behind:
                terms.append((count, tuple(behind)))
            else:
                fixed += count
        return Prices(fixed, tuple(terms), {name: site.channels for name, site in free.items()})

    def total(self, kept: Mapping[str, Any]) -> Any:
        """MACs with some channels left out.

        Args:
            kept: convolution -> how many of its output channels run: an int, or int64 (N,) one an image; a
                convolution that is not named keeps all.
        Returns: an int, or int64 (N,) where counts are one an image.
        Raises: DynamicError for a name that is not free.
        """
        unknown = [name for name in kept if name not in self.channels]
        if unknown:
            raise DynamicError(
                f"{unknown[0]} is no convolution whose output channels are free: one of {', '.join(self.channels)}"
            )
        whole: Any = self.fixed
        for count, behind in self.terms:
            term: Any = count
            for layer in behind:
                term = term * kept.get(layer, self.channels[layer])
            whole = whole + term
        return whole


def latency(model: nn.Module, images: Tensor, repeats: int = 20, warmup: int = 3) -> Latency:
    """Measured seconds an image of a forward pass in evaluation mode, without gradients.

    Args:
        model: on the images' device; its mode is given back.
        images: float (N, C, H, W), one batch.
        repeats: timed passes.
        warmup: passes before them.
    Returns: median and quartiles over the repeats, each divided by N.
    Raises: DynamicError where nothing is to be timed.
    """
    if repeats < 1 or len(images) < 1:
        raise DynamicError(f"latency needs a repeat and an image, not {repeats} repeats of {len(images)} images")
    seconds = []
    with torch.inference_mode(), _evaluating(model):
        for turn in range(warmup + repeats):
            _wait(images)
            began = time.perf_counter()
            model(images)
            _wait(images)
            if turn >= warmup:
                seconds.append((time.perf_counter() - began) / len(images))
    low, median, high = torch.tensor(seconds, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    return Latency(median.item(), low.item(), high.item())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode in the precision that the caller has set, on any device, meta too; modes are given back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _wait(images: Tensor) -> None:
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)


@torch.no_grad()
def _forward(model: nn.Module, shape: tuple[int, ...]) -> None:
    """One image through the network in evaluation mode; modes are given back."""
    first = next(model.parameters())
    with _evaluating(model):
        model(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))


@dataclass(frozen=True)
class Turns:
    """Median seconds of a call of each side, and the median over the turns of the first's seconds by the second's."""

    seconds: float
    peer_seconds: float
    share: float


def in_turns(
    one: Callable[[int], object],
    peer: Callable[[int], object],
    seconds: float = 1.0,
    least: int = 7,
    wait: Callable[[], None] | None = None,
) -> Turns:
    """Time two functions, call by call in turns.

    Args:
        one, peer: called with the number of the turn, from 0.
        seconds: to go on for, for each side; three calls before do not count.
        least: turns at least.
        wait: called before the clock is read: until the device is done.
    """
    for side in (one, peer):
        for turn in range(3):
            side(turn)
    spent: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + 2 * seconds
    while time.perf_counter() < end or len(spent[0]) < least:
        turn = len(spent[0])
        for side, times in zip((one, peer), spent, strict=True):
            if wait is not None:
                wait()
            began = time.perf_counter()
            side(turn)
            if wait is not None:
                wait()
            times.append(time.perf_counter() - began)
    ratios = [mine / other for mine, other in zip(*spent, strict=True)]
    return Turns(statistics.median(spent[0]), statistics.median(spent[1]), statistics.median(ratios))


def networks_in_turns(
    one: nn.Module, peer: nn.Module, batches: Sequence[Tensor], seconds: float = 1.0, least: int = 7
) -> Turns:
    """`in_turns` of the forward passes of two networks in evaluation mode, the batches in rotation.

    Args:
        one, peer: on the device of the batches.
        batches: images (N, C, H, W) in [0, 1]; each runs once before the clock does.
        seconds, least: as `in_turns` takes them.
    """
    on = batches[0].device

    def wait() -> None:
        if on.type == "cuda":
            torch.cuda.synchronize(on)

    with compute.evaluation(one), compute.evaluation(peer), torch.inference_mode():
        for batch in batches:
            one(batch), peer(batch)
        return in_turns(
            lambda turn: one(batches[turn % len(batches)]),
            lambda turn: peer(batches[turn % len(batches)]),
            seconds,
            least,
            wait,
        )
