"""Two networks timed in turns, so that what else the machine does falls on both."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import compute


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
