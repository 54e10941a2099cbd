"""A time box: as many goals as can be finished in some minutes, by workers that share a device, kept in one archive."""

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from statistics import median
from typing import Any

from lib import config
from lib.config import ConfigError, in_words
from lib.engine import jobs
from lib.engine.archive import Archive
from lib.engine.jobs import say
from lib.engine.plan import Goal, Plan, call, estimate, survey

UNKNOWN = 20.0  # seconds of a task, or of an epoch, of which the scale's `estimate:` says nothing
CAUTION = 1.1  # what is not begun may take this much longer than estimated
RESERVE = 15.0  # seconds kept for the last writing of the archive; a tenth of the time where that is less
REFRESH = 20.0  # seconds after which the archive is written again
THINK = 5.0  # seconds after which the order is made anew though nothing has ended


class Worker:
    """One process.

    Attributes:
        task: the name of what it is at; None: it starts up, or waits.
        ready: whether it has started up.
        began: when it began its task, or was started, by time.monotonic.
        process: a pool of one, from the standard library.
        under_way: its start-up or its task; None: it waits.
    """

    def __init__(self, scale: str, threads: int, log: Path, device: Mapping[str, str]) -> None:
        self.log, self._about = log, (scale, threads, log, device)
        self.start()

    def start(self) -> None:
        """Start its process, or another in the place of one that is not to be used again."""
        self.task: str | None = None
        self.ready, self.began = False, time.monotonic()
        self.process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_up, self._about)
        self.under_way: Future[dict[str, Any]] | None = self.process.submit(_machine, self._about[0])

    def begin(self, task: str, function: str, arguments: Mapping[str, Any]) -> None:
        """Hand it a call; `Pool.ended` tells how it went."""
        self.task, self.began = task, time.monotonic()
        try:
            self.under_way = self.process.submit(_carry_out, function, dict(arguments))
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
            except Exception as error:
                if not worker.ready:
                    raise OSError(f"a worker ended while it started up, see {worker.log}") from error
                told = {"state": "failed", "seconds": 0.0, "error": "its process ended"}
            task, worker.task, worker.under_way = worker.task, None, None
            if task is None:
                worker.ready, self.machine = True, told
                continue
            if told["state"] == "failed":
                told["error"] = f"{told['error']} (see {worker.log})"
                worker.process.shutdown(wait=False)
                worker.start()
            yield task, told

    def end(self) -> None:
        """End all workers, whatever they are at: files are whole or absent, and locks end with their process."""
        for process in multiprocessing.active_children():
            process.kill()
            process.join()


class Box:
    """One run: the plan, the workers, what is done.

    Args:
        limit: the moment, by time.monotonic, at which everything is ended.

    Attributes:
        done: tasks whose results are there.
        ended: task -> its state (done, failed or stopped), its seconds, its error.
    """

    def __init__(self, plan: Plan, pool: Pool, archive: Archive, limit: float) -> None:
        self.plan, self.pool, self.archive, self.limit = plan, pool, archive, limit
        self.done: set[str] = set()
        self.ended: dict[str, dict[str, Any]] = {}

    def seconds(self, name: str) -> float:
        """What a task takes beside the others: the scale's estimate, as far off as that of those that ended and are
        like it was; without any, as that of others of its kind."""
        kind, label, guess = self._about(name)
        ratios, of_kind = list[float](), list[float]()
        for other in self.done & set(self.ended):
            its_kind, its_label, guessed = self._about(other)
            ratio = max(self.ended[other]["seconds"], 0.1) / guessed
            of_kind += [ratio] if its_kind == kind else []
            ratios += [ratio] if (its_kind, its_label) == (kind, label) else []
        return guess * median(ratios or of_kind or [1.0])

    def _about(self, name: str) -> tuple[str, str, float]:
        """Kind, label and estimated seconds of a task."""
        task, known = self.plan.tasks[name], self.plan.seconds(name)
        guess = UNKNOWN * max(task.epochs, 1) if known is None else max(known, 1e-3)
        return task.kind.replace("trunk", "train"), task.label, guess

    def order(self) -> tuple[list[Goal], list[str]]:
        """The goals that the workers have time for, in order of priority, and the tasks to begin, the first one first.

        The tasks of those goals come first, then those of the others. None is begun where it, and the shortest chain of
        tasks that makes something of it, as a network's part of a step, does not end in time.
        """
        left = self.limit - time.monotonic()
        busy = {worker.task: time.monotonic() - worker.began for worker in self.pool.workers if worker.task is not None}
        free = left * self.pool.count - sum(max(self.seconds(name) - spent, 0.0) for name, spent in busy.items())
        costs = {name: self.seconds(name) * CAUTION for name in self.plan.tasks if name not in self.done}
        ends = self._shortest(costs)
        goals, first, later = list[Goal](), dict[str, None](), dict[str, None]()
        for goal in self.plan.goals:
            need = self.plan.closure(goal.tasks, self.done)
            new = [name for name in need if name not in first and name not in busy]
            work = sum(costs[name] for name in new)
            if work > free or any(ends[name] > left for name in new):
                later.update(dict.fromkeys(new))
                continue
            goals.append(goal)
            first.update(dict.fromkeys(new))
            free -= work
        return goals, [name for name in {**first, **later} if ends[name] <= left and name not in self.ended]

    def _shortest(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Seconds from each task's begin to the end of the shortest chain of tasks that wait for it."""
        waiting: dict[str, list[str]] = {name: [] for name in costs}
        for name in costs:
            for other in self.plan.tasks[name].after:
                waiting.get(other, []).append(name)
        found: dict[str, float] = {}

        def length(name: str) -> float:
            if name not in found:
                found[name] = costs[name] + min(map(length, waiting[name]), default=0.0)
            return found[name]

        return {name: length(name) for name in costs}

    def run(self) -> None:
        """Carry out what can be finished; returns when the time is over or nothing more can be done in it."""
        planned, written, order = 0.0, time.monotonic(), list[str]()
        while (now := time.monotonic()) < self.limit:
            if now - planned > THINK:
                (_, order), planned = self.order(), now
            ready = [name for name in order if set(self.plan.tasks[name].after) <= self.done]
            for worker in self.pool.workers:
                if worker.ready and worker.task is None and ready:
                    task = self.plan.tasks[ready.pop(0)]
                    order.remove(task.name)
                    worker.begin(task.name, task.call, task.arguments)
                    say(f"start   {task.name}, about {in_words(self.seconds(task.name))}")
            if not ready and not any(worker.task for worker in self.pool.workers):
                break
            for name, told in self.pool.ended(max(min(THINK, self.limit - now), 0.0)):
                planned, self.ended[name] = 0.0, told
                if told["state"] == "done":
                    self.done.add(name)
                    say(f"done    {name}, {told['seconds']:.1f} s")
                else:
                    say(f"FAILED  {name}: {told['error']}")
            if time.monotonic() - written > REFRESH:
                try:
                    self.write(over=False)
                except OSError as error:  # what is finished is in the cache; the next time may go better
                    say(f"the archive could not be written: {error}")
                written = time.monotonic()

    def stop(self) -> None:
        """End what is still at work, and write the archive for the last time."""
        for worker in self.pool.workers:
            if worker.task is not None:
                self.ended[worker.task] = {"state": "stopped", "seconds": round(time.monotonic() - worker.began, 1)}
        self.pool.end()
        self.write(over=True)

    def write(self, over: bool) -> None:
        """Write the archive anew, with what is there now."""
        left = self.left()
        about: dict[str, Any] = {**self.pool.machine, "processes": self.pool.count, "over": over}
        about["asked"] = list(left)
        about["finished"] = [name for name, tasks in left.items() if not tasks]
        about["unfinished"] = {name: tasks for name, tasks in left.items() if tasks}
        self.archive.write({**about, "tasks": self.ended})

    def left(self) -> dict[str, list[str]]:
        """The tasks that each goal still needs."""
        return {goal.name: sorted(self.plan.closure(goal.tasks, self.done)) for goal in self.plan.goals}


def run(
    scale: str | None,
    only: Sequence[str],
    seeds: Sequence[int],
    minutes: float | None,
    processes: int,
    out: Path,
    entry: str | None = None,
    dry_run: bool = False,
) -> int:
    """Carry out a time box, or with dry_run say what fits into it.

    Args:
        scale: smoke, cpu, gpu or paper; None: smoke.
        only, seeds: as `Plan` takes them.
        minutes: from now until the archive is written for the last time.
        processes: workers at a time, all on the devices of this machine.
        out: the archive.
        entry: of config/queue.yaml, in place of scale and only; its seeds and minutes where none are given.
    Returns: 0, or 1 where a task failed.
    Raises: ConfigError for what does not exist, and where data are missing; ArchiveError where `out` is there already.
    """
    if entry is not None:
        known = config.queue()
        if entry not in known:
            raise ConfigError(f"config/queue.yaml has no entry {entry!r}: {', '.join(known) or 'none'}")
        if scale or only:
            raise ConfigError("--entry says which scale and items: leave out --scale and --only")
        scale, only, seeds = known[entry].scale, known[entry].only, seeds or known[entry].seeds
        minutes = minutes or known[entry].minutes
    if not only or not minutes:
        raise ConfigError("box wants --only ITEM ... and --minutes M, or --entry NAME of config/queue.yaml")
    limit = time.monotonic() + minutes * 60 - min(RESERVE, minutes * 6)
    preset = config.load(scale or "smoke")
    plan = Plan(preset, only, seeds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with jobs.alone(preset.name):
        archive, pool = Archive(out, preset), Pool(preset.name, processes, preset.compute.threads)
        box = Box(plan, pool, archive, limit)
        try:
            if not dry_run:
                box.pool.start()
            box.done = survey(plan)
            fitting, _ = box.order()
            for goal in plan.goals:
                needed = plan.closure(goal.tasks, box.done)
                state = "is there" if not needed else "fits" if goal in fitting else "does not fit"
                print(f"{goal.name}: {state}{f', {estimate(plan, needed)} of one process' if needed else ''}")
            print(f"{minutes:g} min for {processes} processes", flush=True)
            if dry_run:
                return 0
            try:
                box.run()
            finally:
                box.stop()
        finally:
            box.pool.end()
    for name, tasks in box.left().items():
        print(f"{'not finished' if tasks else 'finished'}: {name}{f', {len(tasks)} tasks are left' if tasks else ''}")
    print(f"archive: {out}")
    return 1 if any(went["state"] == "failed" for went in box.ended.values()) else 0


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
    # Plain text: torch's own kind of it would import torch in the process that asks.
    return {"device": compute.describe(), "torch": str(torch.__version__)}


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
