"""Worker processes that stay: each starts up once and takes one call after another; all end with this process."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lib import config
from lib.engine import jobs


class Worker:
    """One process, see lib/engine/worker.py.

    Attributes:
        task: the name of what it is at; None: it starts up, or waits.
        ready: whether it has started up.
        began: when it began its task, or was started, by time.monotonic.
    """

    def __init__(self, scale: str, threads: int, log: Path, env: Mapping[str, str]) -> None:
        self.task: str | None = None
        self.ready, self.began = False, time.monotonic()
        with open(log, "ab") as words:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lib.engine.worker", scale, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env=dict(env),
                cwd=config.ROOT,
            )
        self.log, self._rest = log, b""

    @property
    def voice(self) -> IO[bytes]:
        """Where it speaks."""
        assert self.process.stdout is not None
        return self.process.stdout

    def begin(self, task: str, call: str, arguments: Mapping[str, Any], seed: int, only_kept: bool = False) -> None:
        """Hand it a call; `heard` tells how it goes."""
        self.task, self.began = task, time.monotonic()
        line = {"call": call, "arguments": dict(arguments), "seed": seed, "only_kept": only_kept}
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended, as `heard` will tell
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()

    def heard(self) -> list[dict[str, Any]] | None:
        """What it has said; None where it has ended."""
        said = os.read(self.voice.fileno(), 2**16)
        if not said:
            return None
        *lines, self._rest = (self._rest + said).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """End it, whatever it is at: files are whole or absent, and locks end with their process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was still to be written has no reader
                    pipe.close()


class Pool:
    """Workers of one scale, spread over the machine's devices.

    Args:
        scale: smoke, cpu, gpu or paper.
        count: of workers, from 1.
        threads: of each.

    Attributes:
        machine: device and torch of the workers, once one is ready.
    """

    def __init__(self, scale: str, count: int, threads: int) -> None:
        self.scale, self.threads = scale, threads
        self.machine: dict[str, str] = {}
        self.gpus = jobs.gpus(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        self._selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []
        try:
            for _ in range(count):
                self._start(len(self.workers))
        except OSError:
            self.end()
            raise

    def _start(self, index: int) -> None:
        log = jobs.workspace(self.scale) / "logs" / f"box-{index}.log"
        env = environment(self.scale, self.threads)
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = self.gpus[index % len(self.gpus)]
        worker = Worker(self.scale, self.threads, log, env)
        self.workers[index : index + 1] = [worker]
        self._selector.register(worker.voice, selectors.EVENT_READ, worker)

    def replace(self, worker: Worker) -> None:
        """End a worker and start another in its place."""
        self._selector.unregister(worker.voice)
        worker.end()
        self._start(self.workers.index(worker))

    def messages(self, timeout: float) -> Iterator[tuple[Worker, dict[str, Any]]]:
        """What workers say within some seconds, each at once; a worker that ended by itself is replaced."""
        for key, _ in self._selector.select(timeout):
            worker: Worker = key.data
            said = worker.heard()
            if said is None:
                status = worker.process.wait()
                if not worker.ready:
                    raise OSError(f"a worker ended while it started up, see {worker.log}")
                yield worker, {"event": "failed", "error": f"its process ended with status {status}", "seconds": 0.0}
                self.replace(worker)
                continue
            for message in said:
                if message["event"] == "ready":
                    worker.ready = True
                    self.machine = {"device": message["device"], "torch": message["torch"]}
                yield worker, message

    def ask(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Make calls with whatever workers there are, making nothing that is kept; how each ended, in order."""
        found: dict[int, dict[str, Any]] = {}
        left = list(enumerate(calls))[::-1]
        while len(found) < len(calls):
            for worker in self.workers:
                if worker.ready and worker.task is None and left:
                    number, (call, arguments) = left.pop()
                    worker.begin(str(number), call, arguments, seed=0, only_kept=True)
            for worker, message in self.messages(timeout=10):
                if message["event"] in ("done", "failed", "missing") and worker.task is not None:
                    found[int(worker.task)] = message
                    worker.task = None
        return [found[number] for number in range(len(calls))]

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.end()
        self._selector.close()


def environment(scale: str, threads: int) -> dict[str, str]:
    """As every job's, but with what the user has put on Python's path: packages that the machine lacks."""
    env = {**os.environ, **jobs.environment(scale, threads)}
    beside = os.environ.get("PYTHONPATH", "")
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(config.ROOT), *filter(None, beside.split(os.pathsep))]))
    if "PYTHONNOUSERSITE" not in os.environ:
        del env["PYTHONNOUSERSITE"]
    env.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports git, which looks for a program of that name
    return env
