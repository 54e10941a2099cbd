"""A time box: as many goals as can be finished in some minutes, by workers that share a device, kept in one archive."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import config
from lib.engine import cost, forecast, goals
from lib.engine.alone import Alone
from lib.engine.archive import Archive
from lib.engine.forecast import Forecast
from lib.engine.goals import Plan, Task
from lib.engine.jobs import say
from lib.engine.pool import Pool, Worker
from lib.engine.survey import divide, survey

RESERVE = 15.0  # seconds kept for the last writing of the archive; a tenth of the time where that is less
REFRESH = 10.0  # seconds after which the archive is written again where a task has ended
AT_LEAST = 30.0  # seconds after which it is written again whatever has happened: steps keep tables before they end
THINK = 5.0  # seconds after which the plan is looked at again though nothing has ended
START_UP = 15.0  # seconds that a worker takes until it is ready


@dataclass
class Measured:
    """How a task went: done, failed or stopped; its seconds; what it said when it failed."""

    state: str
    seconds: float = 0.0
    error: str = ""


@dataclass
class Epochs:
    """How far a training is: epochs done, of how many; when the first began and the last one ended."""

    done: int
    total: int
    began: float
    last: float


class TimeBox:
    """One run: the plan, the workers, what is done.

    Args:
        plan: goals and tasks.
        pool: the workers.
        archive: where what is finished goes.
        limit: the moment, by time.monotonic, at which everything is ended.
    """

    def __init__(self, plan: Plan, pool: Pool, archive: Archive, limit: float) -> None:
        self.plan, self.pool, self.archive, self.limit = plan, pool, archive, limit
        self.forecast = Forecast(plan)
        self.done: set[str] = set()
        self.measured: dict[str, Measured] = {}
        self.epochs: dict[str, Epochs] = {}

    @property
    def lost(self) -> set[str]:
        """Tasks that failed."""
        return {name for name, went in self.measured.items() if went.state == "failed"}

    def run(self) -> None:
        """Carry out what can be finished; returns when the time is over or nothing more can be done in it."""
        planned = 0.0
        written, told = time.monotonic(), 0
        order: list[str] = []
        while (now := time.monotonic()) < self.limit:
            if now - planned > THINK:
                order, planned = self._think(), now
            self._assign(order)
            if not order and not any(worker.task for worker in self.pool.workers):
                break
            for worker, message in self.pool.messages(max(min(THINK, self.limit - now), 0.0)):
                if message["event"] == "epoch":
                    self._epoch(worker, message)
                    continue
                planned = 0.0
                if message["event"] != "ready" and worker.task is not None:
                    self._ended(worker, message)
            if time.monotonic() - written > (REFRESH if len(self.measured) > told else AT_LEAST):
                try:
                    self.write(over=False)
                except OSError as error:  # what is finished is in the cache; the next time may go better
                    say(f"the archive could not be written: {error}")
                written, told = time.monotonic(), len(self.measured)

    def stop(self) -> None:
        """End what is still at work."""
        for worker in self.pool.workers:
            if worker.task in self.plan.tasks:
                self.measured[str(worker.task)] = Measured("stopped", time.monotonic() - worker.began)
        self.pool.end()

    def write(self, over: bool) -> None:
        """Write the archive anew, with what is there now."""
        self.archive.write({**self.pool.machine, **self.account(), "over": over})

    def account(self) -> dict[str, Any]:
        """What was asked for, what is finished, how each task went."""
        left = {goal.name: sorted(self.plan.closure(goal.tasks, self.done)) for goal in self.plan.goals}
        return {
            "processes": len(self.pool.workers),
            "asked": list(left),
            "finished": [name for name, tasks in left.items() if not tasks],
            "unfinished": {name: tasks for name, tasks in left.items() if tasks},
            "tasks": {name: self._told(self.plan.tasks[name], went) for name, went in self.measured.items()},
        }

    def _told(self, task: Task, went: Measured) -> dict[str, Any]:
        told: dict[str, Any] = {"state": went.state, "seconds": round(went.seconds, 1)}
        if went.error:
            told["error"] = went.error
        images = config.images_of(self.plan.scale, task.network) if task.epochs else None
        if went.state == "done" and images and went.seconds:
            told["images_per_second"] = round(images * task.epochs / went.seconds)
        return told

    def _running(self) -> dict[str, float]:
        """Seconds that each task at work still takes; a worker that starts up counts as one."""
        now, found = time.monotonic(), {}
        for number, worker in enumerate(self.pool.workers):
            if worker.task is not None:
                found[worker.task] = self._left(worker.task, now - worker.began)
            elif not worker.ready:
                found[f"worker {number}"] = max(START_UP - (now - worker.began), 1.0)
        return found

    def _left(self, name: str, spent: float) -> float:
        """Seconds that a task still takes: by its epochs where one is done, else by the estimate."""
        seen = self.epochs.get(name)
        if seen is not None and seen.done:
            each = (seen.last - seen.began) / seen.done
            left = each * (seen.total - seen.done) + self.forecast.overhead / 2
            return max(left - (time.monotonic() - seen.last), 0.1)
        return max(self.forecast.seconds(name) - spent, 0.2 * spent)

    def _think(self) -> list[str]:
        """The tasks to begin, the first one first; ends trainings in whose place something can be finished."""
        running, left = self._running(), self.limit - time.monotonic()
        taken, order = self._admitted(running, left)
        needed = self.plan.closure(name for goal in taken for name in goal.tasks)
        late = {name for name in running if name in self.epochs and self.epochs[name].done and name not in needed}
        if late:
            freed = {name: seconds for name, seconds in running.items() if name not in late}
            instead, other = self._admitted(freed | {f"new {name}": START_UP for name in late}, left, late)
            if any(goal not in taken for goal in instead):
                self._yield(late)
                return other
        return order

    def _admitted(
        self, running: Mapping[str, float], left: float, without: Collection[str] = ()
    ) -> tuple[list[goals.Goal], list[str]]:
        """What can be finished; what failed, or gave way before, is not tried again."""
        out = set(without) | {name for name, went in self.measured.items() if went.state != "done"}
        return forecast.admit(self.plan, self.forecast, self.done, out, running, len(self.pool.workers), left)

    def _yield(self, names: Collection[str]) -> None:
        for worker in list(self.pool.workers):
            if worker.task is not None and worker.task in names:
                say(f"ended   {worker.task}: as measured, it cannot be finished in time")
                self.measured[worker.task] = Measured("stopped", time.monotonic() - worker.began)
                self.epochs.pop(worker.task)
                self.pool.replace(worker)

    def _assign(self, order: list[str]) -> None:
        """Hand tasks whose inputs are done to workers that wait."""
        ready = [name for name in order if set(self.plan.tasks[name].after) <= self.done]
        for worker in self.pool.workers:
            if worker.ready and worker.task is None and ready:
                task = self.plan.tasks[ready.pop(0)]
                order.remove(task.name)
                worker.begin(task.name, task.call, task.arguments, task.seed)
                say(f"start   {task.name}, about {cost.in_words(self.forecast.seconds(task.name))}")

    def _epoch(self, worker: Worker, message: Mapping[str, Any]) -> None:
        """Take in how far a training is; those inside steps and attacks say nothing about the whole."""
        name, now = str(worker.task), time.monotonic()
        task = self.plan.tasks[name]
        if not task.epochs:
            return
        began = self.epochs[name].began if name in self.epochs and message["done"] else now
        self.epochs[name] = Epochs(message["done"], message["total"], began, now)
        if message["done"]:
            self.forecast.learn(name, (now - began) / message["done"] * task.epochs)

    def _ended(self, worker: Worker, message: Mapping[str, Any]) -> None:
        name, worker.task = str(worker.task), None
        task, seen = self.plan.tasks[name], self.epochs.pop(name, None)
        self.measured[name] = went = Measured("failed", message["seconds"])
        if message["event"] == "done":
            went.state = "done"
            self.done.add(name)
            if not task.epochs:
                self.forecast.learn(name, went.seconds)
            elif seen is not None:  # its epochs are learnt as they end; one that was there has none
                self.forecast.beside.append(max(went.seconds - (seen.last - seen.began), 0.0))
            say(f"done    {name}, {went.seconds:.1f} s")
            return
        went.error = str(message["error"])
        say(f"FAILED  {name}: {went.error} (see {worker.log})")
        if worker.process.poll() is None:  # a device that failed once may fail again
            self.pool.replace(worker)


def run(
    scale: str,
    only: Sequence[str],
    seeds: Sequence[int],
    minutes: float,
    processes: int,
    out: Path,
    threads: int | None = None,
    weights_mb: float = 15.0,
    everything: bool = False,
    commit: str = "",
    dry_run: bool = False,
) -> int:
    """Carry out a time box, or with dry_run say what fits into it.

    Args:
        scale: smoke, cpu, gpu or paper.
        only, seeds: as `goals.plan` takes them.
        minutes: from now until the archive is written for the last time.
        processes: workers at a time, all on the devices of this machine.
        out: the archive; one that is there already, of the same scale and settings, is gone on with.
        threads: of each worker; None: as many as the scale says.
        weights_mb: the archive holds weights until it has this size; 0: none.
        everything: pack also what was there before the run.
        commit: that the code was taken from, where git cannot tell; with "-dirty" where it was changed.
    Returns: 0, or 1 where a task failed.
    Raises: ConfigError for what does not exist; ArchiveError for another archive at `out`.
    """
    began = time.monotonic()
    preset = config.load(scale)
    plan = goals.plan(preset, only, seeds)
    seconds = minutes * 60 - min(RESERVE, minutes * 6)
    archive = Archive(out, preset, weights_mb, everything, commit)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Alone(scale):
        archive.begin()
        box = TimeBox(plan, Pool(scale, processes, threads or preset.compute.threads), archive, began + seconds)
        try:
            box.done = survey(plan, box.pool)
            divide(plan, box.pool, box.done)
            if dry_run:
                print(told(box, processes, seconds))
                return 0
            say(f"{scale}: {', '.join(goal.name for goal in plan.goals)}; {minutes:g} minutes, {processes} processes")
            try:
                box.run()
            finally:
                box.stop()
                box.write(over=True)
        finally:
            box.pool.end()
    account = box.account()
    print(f"finished: {', '.join(account['finished']) or 'nothing'}")
    for name, left in account["unfinished"].items():
        print(f"not finished: {name}, {len(left)} tasks are left")
    print(f"archive: {out}")
    return 1 if box.lost else 0


def told(box: TimeBox, processes: int, seconds: float) -> str:
    """The plan in words: each goal with its tasks and their estimated time, and what fits."""
    taken, order = forecast.admit(box.plan, box.forecast, box.done, set(), {}, processes, seconds - START_UP)
    fits = {goal.name for goal in taken}
    lines, total, shown = [], 0.0, set(box.done)
    for goal in box.plan.goals:
        needed = box.plan.closure(goal.tasks, box.done)
        mine = [name for name in box.plan.tasks if name in needed and name not in shown]
        shown.update(mine)
        work = sum(box.forecast.seconds(name) for name in mine)
        total += work
        state = "is there" if not needed else "fits" if goal.name in fits else "does not fit"
        lines.append(f"{goal.name}: {state}, {cost.in_words(work)} of one process")
        for name in mine:
            sure = "" if box.forecast.known(name) else ", a guess: the scale's `estimate:` does not say"
            begun = "" if name in order else ", not begun"
            lines.append(f"  {name}: {cost.in_words(box.forecast.seconds(name))}{sure}{begun}")
    lines.append(
        f"In all {cost.in_words(total)} of one process, shared by {processes}; {cost.in_words(seconds)} are given."
    )
    return "\n".join(lines)
