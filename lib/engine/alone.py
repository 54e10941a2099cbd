"""One run at a time: the locks that a run holds, and clearing away what killed runs left half-written."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from lib import config, store
from lib.engine import jobs
from lib.engine.jobs import say

STALE = 60  # seconds after which a lock file of matplotlib's, which it holds for milliseconds, has lost its owner


class Alone:
    """A scale's run lock, in its cache and on its results folder; a second run of either waits.

    The kernel frees a lock when its holder dies, however it dies.
    """

    def __init__(self, scale: str) -> None:
        self.scale = scale
        self.held: list[IO[str] | int] = []

    def __enter__(self) -> None:
        folder, results = jobs.workspace(self.scale), config.results_dir(self.scale)
        self.held.append(open(folder / "run.lock", "a"))
        _wait(self.held[-1], f"another run of {self.scale} is at work; waiting for it to end")
        with open(folder / "jobs.lock", "a") as left:
            _wait(left, f"a job of an earlier run of {self.scale} is still at work; waiting for it to end")
        results.mkdir(parents=True, exist_ok=True)
        self.held.append(os.open(results, os.O_RDONLY))
        with suppress(OSError):  # a file system that does not lock folders
            _wait(self.held[-1], f"another run writes to {results}; waiting for it to end")
        clear(self.scale)

    def __exit__(self, *_: object) -> None:
        for lock in self.held:
            if isinstance(lock, int):
                os.close(lock)
            else:
                lock.close()


def clear(scale: str) -> list[Path]:
    """Remove what killed runs left half-written in a scale's cache and results.

    Returns: the files removed.
    """
    removed = []
    for folder in (config.results_dir(scale), config.cache_dir(scale), config.cache_dir("data")):
        removed += store.sweep(folder)
    # A process killed while it wrote matplotlib's list of fonts leaves a lock that every later one waits for.
    for lock in (config.cache_dir(scale).parent / "home" / "matplotlib").glob("*.matplotlib-lock"):
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > STALE:
                lock.unlink()
                removed.append(lock)
    return removed


def refusal(scale: str) -> str | None:
    """Why nothing can be written where a scale's run writes; None where it can.

    Returns: the folder, and what the disk says.
    """
    for folder in (config.cache_dir(scale) / "engine", config.results_dir(scale), config.ROOT / ".snakemake"):
        probe = folder / "probe"
        try:
            store.write_atomic(probe, bytes(2**16))
            probe.unlink()
        except OSError as error:
            return f"{folder}: {error.strerror.rpartition(': ')[2] if error.strerror else error}"
    return None


def _wait(lock: IO[str] | int, message: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(message)
        fcntl.flock(lock, fcntl.LOCK_EX)
