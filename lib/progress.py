"""One progress bar for everything: shown in a terminal or a live notebook, lines in a job's log, silent elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from functools import cache
from pathlib import Path
from typing import Any

from lib import config

_EXECUTORS = {"papermill", "nbconvert", "jupyter-nbconvert", "jupyter-execute", "snakemake", "pytest"}
EVERY = 5.0  # seconds between two lines of one bar in a log


def bar(iterable: Iterable | None = None, desc: str = "", total: int | None = None) -> Any:
    """A tqdm bar, or the same object without output where nobody watches.

    Args:
        iterable: what to go through; None: the caller calls `.update(n)`.
        desc: a word or two in front of the bar.
        total: number of steps, where the iterable has no length.
    Returns: the tqdm object: iterate it, or use it as a context manager with `.update` and `.set_postfix`.
    """
    from tqdm import tqdm

    if iterable is not None and config.progress_written():
        total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        iterable = _written(iterable, desc, total)
    return tqdm(iterable, desc=desc or None, total=total, disable=not watched(), leave=False, dynamic_ncols=True)


def _written(iterable: Iterable, desc: str, total: int | None) -> Iterator:
    """The same steps; how far they are goes to standard error: "epochs 3 of 20, about 2 min left"."""
    began = last = time.monotonic()
    for done, entry in enumerate(iterable):
        now = time.monotonic()
        if done and now - last > EVERY:
            last = now
            rest = f" of {total}, about {config.in_words((now - began) / done * (total - done))} left" if total else ""
            print(f"{desc} {done}{rest}", file=sys.stderr, flush=True)
        yield entry


def say(line: str) -> None:
    """A plain line on standard error for whoever watches, or in a job's log."""
    if watched() or config.progress_written():
        print(line, file=sys.stderr, flush=True)


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
