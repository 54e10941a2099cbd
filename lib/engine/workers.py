"""Worker processes that stay: each starts up once and takes one call after another; all end with this process."""

import gc
import importlib
import multiprocessing
import os
import queue
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lib import config
from lib.engine import jobs
from lib.engine.plan import call


class Worker:
    """One process.

    Attributes:
        task: the name of what it is at; None: it starts up, or waits.
        ready: whether it has started up.
        began: when it began its task, or was started, by time.monotonic.
    """

    def __init__(self, scale: str, threads: int, log: Path, device: Mapping[str, str]) -> None:
        self.task: str | None = None
        self.ready, self.began, self.log = False, time.monotonic(), log
        context = multiprocessing.get_context("spawn")
        self.voice, ours = context.Pipe()
        self.process = context.Process(target=_work, args=(ours, scale, threads, log, device), daemon=True)
        self.process.start()
        ours.close()

    def begin(self, task: str, function: str, arguments: Mapping[str, Any]) -> None:
        """Hand it a call; `Pool.messages` tells how it goes."""
        self.task, self.began = task, time.monotonic()
        with suppress(OSError):  # it has just ended, as `Pool.messages` will tell
            self.voice.send((function, dict(arguments)))

    def end(self) -> None:
        """End it, whatever it is at: files are whole or absent, and locks end with their process."""
        self.process.kill()
        self.process.join()
        self.voice.close()


class Pool:
    """Workers of one scale, spread over the machine's devices.

    Args:
        count: of workers, from 1.
        threads: of each.

    Attributes:
        machine: device and torch of the workers, once one is ready.
    """

    def __init__(self, scale: str, count: int, threads: int) -> None:
        self.scale, self.count, self.threads, self.machine = scale, count, threads, dict[str, str]()
        self.gpus = jobs.devices(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        self.workers: list[Worker] = []

    def start(self) -> None:
        """Start all workers."""
        # Python tells of the semaphores that a killed worker had, those of its bars; nothing is left behind.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
        self.workers = [self._start(index) for index in range(self.count)]

    def _start(self, index: int) -> Worker:
        log = jobs.workspace(self.scale) / "logs" / f"box-{index}.log"
        device = {"CUDA_VISIBLE_DEVICES": self.gpus[index % len(self.gpus)]} if self.gpus else {}
        return Worker(self.scale, self.threads, log, device)

    def replace(self, worker: Worker) -> None:
        """End a worker and start another in its place."""
        worker.end()
        index = self.workers.index(worker)
        self.workers[index] = self._start(index)

    def messages(self, timeout: float) -> Iterator[tuple[Worker, dict[str, Any]]]:
        """What workers say within some seconds; a worker that ended by itself is replaced.

        Raises: OSError where one ended while it started up.
        """
        said = wait([worker.voice for worker in self.workers], timeout)
        for worker in [worker for worker in self.workers if worker.voice in said]:
            try:
                message = worker.voice.recv()
            except (EOFError, OSError):
                worker.process.join()
                if not worker.ready:
                    raise OSError(f"a worker ended while it started up, see {worker.log}") from None
                status = worker.process.exitcode
                yield worker, {"event": "failed", "error": f"its process ended with status {status}", "seconds": 0.0}
                self.replace(worker)
                continue
            if message["event"] == "ready":
                worker.ready, self.machine = True, {"device": message["device"], "torch": message["torch"]}
            yield worker, message

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.end()


def _work(voice: Connection, scale: str, threads: int, log: Path, device: Mapping[str, str]) -> None:
    """A worker's process: start up, then carry out one call after another; ends when nobody waits for it any more."""
    with open(log, "ab") as words:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
    os.environ.update(jobs.environment(scale, threads))
    os.environ.update(device)
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports git, which looks for a program of that name
    calls: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    threading.Thread(target=_listen, args=(voice, calls), daemon=True).start()
    compute, torch = importlib.import_module("lib.compute"), importlib.import_module("torch")
    importlib.import_module("lib.zoo")
    compute.set_threads(threads)
    compute.deterministic()
    # The device's start-up is over before the first task is timed.
    torch.zeros(1, device=compute.device(config.load(scale).compute.device))
    voice.send({"event": "ready", "device": compute.describe(), "torch": torch.__version__})
    while True:
        function, arguments = calls.get()
        torch.manual_seed(arguments.get("seed", 0))
        began, outcome = time.monotonic(), {"event": "done"}
        try:
            call(function, arguments)
        except Exception as error:
            traceback.print_exc()
            outcome = {"event": "failed", "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()  # the memory is shared with the other workers
        voice.send({**outcome, "seconds": round(time.monotonic() - began, 2)})


def _listen(voice: Connection, calls: queue.Queue) -> None:
    while True:
        try:
            calls.put(voice.recv())
        except (EOFError, OSError):
            os._exit(137)
