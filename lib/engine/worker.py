"""One worker of a time box: starts up once, then carries out calls until the process that started it is gone.

    python -m lib.engine.worker SCALE THREADS

reads one JSON object a line, {"call": "module:function", "arguments": {...}, "seed": 0, "only_kept": false}, and
writes, one object a line: ready, with its device and torch; the epochs of a training; and how each call ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from typing import Any, TextIO

from lib import config, progress, store

EVERY = 0.3  # seconds between two reports of one training


def main() -> None:
    """Read calls and carry them out, one at a time."""
    scale, threads = sys.argv[1], int(sys.argv[2])
    words = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the calls print goes to the log
    calls: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    compute = importlib.import_module("lib.compute")
    torch = importlib.import_module("torch")
    importlib.import_module("lib.zoo")
    compute.set_threads(threads)
    compute.deterministic()
    torch.zeros(
        1, device=compute.device(config.load(scale).compute.device)
    )  # the device's start-up is over before the first task is timed
    progress.listen(_Reporter(words))
    _say(words, event="ready", device=compute.describe(), torch=torch.__version__)
    while True:
        asked = calls.get()
        torch.manual_seed(asked["seed"])
        began = time.monotonic()
        outcome = _carry_out(asked)
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()  # the memory is shared with the other workers
        _say(words, seconds=round(time.monotonic() - began, 2), **outcome)


def _listen(calls: queue.Queue) -> None:
    """Take calls in; at the end of the input nobody waits for this worker any more."""
    for line in sys.stdin:
        calls.put(json.loads(line))
    os._exit(137)


def _carry_out(asked: dict[str, Any]) -> dict[str, Any]:
    module, _, function = asked["call"].partition(":")
    try:
        called = getattr(importlib.import_module(module), function)
        if asked.get("only_kept"):
            with store.only_kept():
                value = called(**asked["arguments"])
        else:
            value = called(**asked["arguments"])
    except store.NotKept as error:
        return {"event": "missing", "error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"event": "failed", "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        value = str(value) if isinstance(value, os.PathLike) else None
    return {"event": "done", "value": value}


class _Reporter:
    """Hands on how far the training under way is."""

    def __init__(self, words: TextIO) -> None:
        self.words, self.last = words, 0.0

    def __call__(self, desc: str, done: int, total: int | None) -> None:
        if desc == "epochs" and total and (done in (0, total) or time.monotonic() - self.last > EVERY):
            self.last = time.monotonic()
            _say(self.words, event="epoch", done=done, total=total)


def _say(words: TextIO, **message: Any) -> None:
    words.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main()
