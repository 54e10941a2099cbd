"""Worker processes that stay: each starts up once and takes one call after another; all end with this process."""

import gc
import importlib
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
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
        under_way: its start-up or its task; None: it waits.
    """

    def __init__(self, scale: str, threads: int, log: Path, device: Mapping[str, str]) -> None:
        self.log, self._about = log, (scale, threads, log, device)
        self.start()

    def start(self) -> None:
        """Start its process, or another in the place of one that is not to be used again."""
        self.task: str | None = None
        self.ready, self.began = False, time.monotonic()
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_up, self._about)
        self.under_way: Future[dict[str, Any]] | None = self._process.submit(_machine, self._about[0])

    def begin(self, task: str, function: str, arguments: Mapping[str, Any]) -> None:
        """Hand it a call; `Pool.ended` tells how it went."""
        self.task, self.began = task, time.monotonic()
        try:
            self.under_way = self._process.submit(_carry_out, function, dict(arguments))
        except BrokenProcessPool as error:  # it ended while it waited
            self.under_way = Future()
            self.under_way.set_exception(error)


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
        self.workers: list[Worker] = []

    def start(self) -> None:
        """Start all workers."""
        # Python tells of the semaphores that a killed worker had, those of its bars; nothing is left behind.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
        gpus = jobs.devices(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        for index in range(self.count):
            device = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}
            log = jobs.workspace(self.scale) / "logs" / f"box-{index}.log"
            self.workers.append(Worker(self.scale, self.threads, log, device))

    def ended(self, timeout: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """Tasks that end within some seconds, or a worker's start-up: each task's name, and what `_carry_out` tells.

        A worker whose task failed is started anew: a device that failed once may fail again.

        Raises: OSError where one ended while it started up.
        """
        wait([worker.under_way for worker in self.workers if worker.under_way], timeout, FIRST_COMPLETED)
        for worker in self.workers:
            if worker.under_way is None or not worker.under_way.done():
                continue
            try:
                told = worker.under_way.result()
            except BrokenProcessPool:
                if not worker.ready:
                    raise OSError(f"a worker ended while it started up, see {worker.log}") from None
                told = {"state": "failed", "seconds": 0.0, "error": "its process ended"}
            task, worker.task, worker.under_way = worker.task, None, None
            if task is None:
                worker.ready, self.machine = True, told
                continue
            if told["state"] == "failed":
                told["error"] = f"{told['error']} (see {worker.log})"
                worker.start()
            yield task, told

    def end(self) -> None:
        """End all workers, whatever they are at: files are whole or absent, and locks end with their process."""
        for process in multiprocessing.active_children():
            process.kill()
            process.join()


# ---- in a worker's process


def _start_up(scale: str, threads: int, log: Path, device: Mapping[str, str]) -> None:
    with open(log, "ab") as words:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
    os.environ.update(jobs.environment(scale, threads))
    os.environ.update(device)
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports git, which looks for a program of that name
    threading.Thread(target=_end_with_parent, daemon=True).start()
    compute = importlib.import_module("lib.compute")
    importlib.import_module("lib.zoo")
    compute.set_threads(threads)
    compute.deterministic()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(137)


def _machine(scale: str) -> dict[str, str]:
    """Device and torch of this process; the device's start-up is over before the first task is timed."""
    compute, torch = importlib.import_module("lib.compute"), importlib.import_module("torch")
    torch.zeros(1, device=compute.device(config.load(scale).compute.device))
    return {"device": compute.describe(), "torch": torch.__version__}


def _carry_out(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Carry out a call. Returns: its state (done or failed), its seconds, and the error of one that failed."""
    torch = importlib.import_module("torch")
    torch.manual_seed(arguments.get("seed", 0))
    began, told = time.monotonic(), {"state": "done"}
    try:
        call(function, arguments)
    except Exception as error:
        traceback.print_exc()
        told = {"state": "failed", "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()  # the memory is shared with the other workers
    return {**told, "seconds": round(time.monotonic() - began, 1)}
