"""One progress bar for everything: shown in a terminal or a live notebook, lines in a job's log, silent elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import cache
from pathlib import Path
from typing import Any

from lib import config

_EXECUTORS = {"papermill", "nbconvert", "jupyter-nbconvert", "jupyter-execute", "snakemake", "pytest"}
EVERY = 5.0  # seconds between two lines of one bar in a log
_listeners: list[Callable[[str, int, int | None], None]] = []


def bar(iterable: Iterable | None = None, desc: str = "", total: int | None = None) -> Any:
    """A tqdm bar, or the same object without output where nobody watches.

    Args:
        iterable: what to go through; None: the caller calls `.update(n)`.
        desc: a word or two in front of the bar.
        total: number of steps, where the iterable has no length.
    Returns: the tqdm object: iterate it, or use it as a context manager with `.update` and `.set_postfix`.
    """
    from tqdm import tqdm

    listeners = [*_listeners, _Lines()] if config.progress_written() else _listeners
    if listeners and iterable is not None:
        total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        iterable = _heard(iterable, desc, total, listeners)
    return tqdm(iterable, desc=desc or None, total=total, disable=not watched(), leave=False, dynamic_ncols=True)


def listen(hear: Callable[[str, int, int | None], None]) -> None:
    """From now on, tell every step of every bar of this process: its words, the steps done, and of how many."""
    _listeners.append(hear)


def _heard(iterable: Iterable, desc: str, total: int | None, listeners: list) -> Iterator:
    done = 0
    for entry in iterable:
        for hear in listeners:
            hear(desc, done, total)
        yield entry
        done += 1
    for hear in listeners:
        hear(desc, done, total)


class _Lines:
    """Writes how far one bar is as plain lines: "epochs 3 of 20, about 2 min left"."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def __call__(self, desc: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done and now - self.last > EVERY:
            self.last = now
            rest = (
                f" of {total}, about {config.in_words((now - self.began) / done * (total - done))} left"
                if total
                else ""
            )
            print(f"{desc} {done}{rest}", file=sys.stderr, flush=True)


def watched() -> bool:
    """Whether somebody sees a bar move: a terminal, or a notebook with a front end, and no request to be quiet."""
    if config.quiet():
        return False
    return _live_notebook() if _in_kernel() else sys.stderr.isatty()


def _in_kernel() -> bool:
    # An imported ipykernel is not enough: a terminal's own code may import it.
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()


@cache
def _live_notebook() -> bool:
    """A kernel cannot ask who is at the other end, but a batch executor is the process that started it."""
    import psutil  # ipykernel depends on it

    try:
        starter = psutil.Process().parent()
        words = starter.cmdline() if starter else []
    except psutil.Error:
        return True
    return not any(Path(word).stem in _EXECUTORS for word in words[:6])
