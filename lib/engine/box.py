"""A time box: as many goals as can be finished in some minutes, by workers that share a device, kept in one archive."""

import signal
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lib import config
from lib.config import ConfigError, in_words
from lib.engine import jobs
from lib.engine.archive import Archive
from lib.engine.jobs import say
from lib.engine.plan import Goal, Plan, Task, estimate, survey
from lib.engine.workers import Pool, Worker

UNKNOWN = 20.0  # seconds of a task, or of an epoch, of which the scale's `estimate:` says nothing
CAUTION = 1.1  # what is not begun may take this much longer than estimated
RESERVE = 15.0  # seconds kept for the last writing of the archive; a tenth of the time where that is less
REFRESH = 20.0  # seconds after which the archive is written again
THINK = 5.0  # seconds after which the plan is looked at again though nothing has ended
START_UP = 15.0  # seconds that a worker takes until it is ready


class Forecast:
    """Seconds a task takes beside as many others as run at a time: the scale's `estimate:`, corrected as measured."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._seen: dict[str, tuple[float, float]] = {}  # task -> seconds of a unit of work; over estimated seconds

    def seconds(self, name: str) -> float:
        """By the pace of tasks of its kind and label; without any, the estimate as far off as those of its kind were."""
        tasks, seen = self.plan.tasks, self._seen
        same = [other for other in seen if _kind(tasks[other]) == _kind(tasks[name])]
        alike = [seen[other][0] for other in same if tasks[other].label == tasks[name].label]
        if alike:
            return median(alike) * self._work(name)
        return self._guess(name) * median([seen[other][1] for other in same] or [1.0])

    def learn(self, name: str, seconds: float) -> None:
        """Take in the seconds of a task; of a training under way those of all its epochs, as those so far have them."""
        self._seen[name] = seconds / self._work(name), seconds / max(self._guess(name), 1e-9)

    def _work(self, name: str) -> float:
        """Images that a training sees; 1 for anything else."""
        task = self.plan.tasks[name]
        return task.epochs * (config.images_of(self.plan.scale, task.network) or 1) if task.epochs else 1

    def _guess(self, name: str) -> float:
        known = self.plan.seconds(name)
        return UNKNOWN * max(self.plan.tasks[name].epochs, 1) if known is None else known


def _kind(task: Task) -> str:
    return task.kind.replace("trunk", "train")


def admit(
    plan: Plan,
    seconds: Mapping[str, float],
    out: Collection[str],
    running: Mapping[str, float],
    workers: int,
    left: float,
) -> tuple[list[Goal], list[str]]:
    """The goals that fit into the time that is left, in order of priority, and their tasks in the order to begin them.

    A goal is taken where its work, beside that of those taken before it, is not more than the workers have time for,
    and its longest chain of tasks ends in time. Into what is left then go parts of the goals that do not fit: a network
    with its evaluation, a step.

    Args:
        seconds: of every task that is not done.
        out: tasks that failed, or cannot be done.
        running: seconds that tasks at work still take; those that no goal here needs keep their worker as well.
        left: seconds.
    Returns: the goals, parts of goals as goals of one task, and the tasks not begun, the first to begin first.
    """
    done = set(plan.tasks) - set(seconds)
    costs = {name: running.get(name, seconds[name] * CAUTION) for name in seconds}
    free = left * workers - sum(min(still, left) for still in running.values())
    taken, order = list[Goal](), list[str]()

    def take(goal: Goal) -> None:
        nonlocal free
        need = plan.closure(goal.tasks, done)
        new, length = need - set(order) - set(running), chains(plan, need, costs)
        work = sum(costs[name] for name in new)
        if not need & set(out) and work <= free and all(length[name] <= left for name in need):
            taken.append(goal)
            order.extend(sorted(new, key=lambda name: (-length[name], name)))
            free -= work

    goals = [goal for goal in plan.goals if set(goal.tasks) & set(seconds)]
    for goal in goals:
        take(goal)
    for goal in [goal for goal in goals if goal not in taken]:
        inner = plan.closure(other for name in goal.tasks for other in plan.tasks[name].after)
        parts = sorted(name for name in inner if plan.tasks[name].kind == "part")
        for name in [*parts, *(name for name in goal.tasks if name not in inner)]:
            if name in seconds:
                take(Goal(name, goal.seed, (name,)))
    return taken, order


def chains(plan: Plan, names: Iterable[str], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from each task's start to the end of the longest chain of tasks that wait for it."""
    found, waiting = dict[str, float](), dict[str, list[str]]()
    for name in names:
        for other in plan.tasks[name].after:
            waiting.setdefault(other, []).append(name)

    def length(name: str) -> float:
        if name not in found:
            found[name] = seconds[name] + max(map(length, waiting.get(name, ())), default=0.0)
        return found[name]

    return {name: length(name) for name in names}


class Box:
    """One run: the plan, the workers, what is done.

    Args:
        limit: the moment, by time.monotonic, at which everything is ended.
    """

    def __init__(self, plan: Plan, pool: Pool, archive: Archive, limit: float) -> None:
        self.plan, self.pool, self.archive, self.limit = plan, pool, archive, limit
        self.forecast = Forecast(plan)
        self.done: set[str] = set()
        self.ended: dict[str, dict[str, Any]] = {}  # task -> state: done, failed or stopped; seconds; error
        self.epochs: dict[
            str, tuple[int, int, float, float]
        ] = {}  # done, of how many, the first's begin, the last's end

    def run(self) -> None:
        """Carry out what can be finished; returns when the time is over or nothing more can be done in it."""
        planned, written, order = 0.0, time.monotonic(), list[str]()
        while (now := time.monotonic()) < self.limit:
            if now - planned > THINK:
                order, planned = self.think(), now
            self._assign(order)
            if not order and not any(worker.task for worker in self.pool.workers):
                break
            for worker, message in self.pool.messages(max(min(THINK, self.limit - now), 0.0)):
                if message["event"] == "epoch":
                    self._epoch(str(worker.task), message["done"], message["total"])
                    continue
                planned = 0.0
                if message["event"] != "ready" and worker.task is not None:
                    self._end(worker, message)
            if time.monotonic() - written > REFRESH:
                try:
                    self.write(over=False)
                except OSError as error:  # what is finished is in the cache; the next time may go better
                    say(f"the archive could not be written: {error}")
                written = time.monotonic()

    def stop(self) -> None:
        """End what is still at work, and write the archive for the last time."""
        for worker in self.pool.workers:
            self._stopped(worker)
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

    def think(self) -> list[str]:
        """The tasks to begin, the first one first; ends trainings in whose place something can be finished."""
        now, running = time.monotonic(), dict[str, float]()
        for number, worker in enumerate(self.pool.workers):
            if worker.task is not None:
                running[worker.task] = self._still(worker.task, now - worker.began)
            elif not worker.ready:
                running[f"worker {number}"] = max(START_UP - (now - worker.began), 1.0)
        taken, order = self.admitted(running)
        needed = self.plan.closure(name for goal in taken for name in goal.tasks)
        late = {name for name in running if self.epochs.get(name, (0,))[0] and name not in needed}
        if late:
            instead, other = self.admitted({n: START_UP if n in late else s for n, s in running.items()}, late)
            if {goal.name for goal in instead} - {goal.name for goal in taken}:
                for worker in [worker for worker in self.pool.workers if worker.task in late]:
                    say(f"ended   {worker.task}: as measured, it cannot be finished in time")
                    self._stopped(worker)
                    self.pool.replace(worker)
                return other
        return order

    def admitted(self, running: Mapping[str, float], late: Collection[str] = ()) -> tuple[list[Goal], list[str]]:
        """What can be finished; what failed, or gave way before, is not tried again."""
        out = {name for name, went in self.ended.items() if went["state"] != "done"} | set(late)
        seconds = {name: self.forecast.seconds(name) for name in self.plan.tasks if name not in self.done}
        return admit(self.plan, seconds, out, running, self.pool.count, self.limit - time.monotonic())

    def _still(self, name: str, spent: float) -> float:
        """Seconds that a task still takes: by its epochs where one is done, else by the estimate."""
        done, total, began, last = self.epochs.get(name, (0, 0, 0.0, 0.0))
        if done:
            return max((last - began) / done * (total - done) - (time.monotonic() - last), 0.1)
        return max(self.forecast.seconds(name) - spent, 0.2 * spent)

    def _assign(self, order: list[str]) -> None:
        """Hand tasks whose inputs are done, and that still end in time, to workers that wait."""
        left = self.limit - time.monotonic()
        ready = [name for name in order if set(self.plan.tasks[name].after) <= self.done]
        ready = [name for name in ready if self.forecast.seconds(name) <= left]
        for worker in self.pool.workers:
            if worker.ready and worker.task is None and ready:
                task = self.plan.tasks[ready.pop(0)]
                order.remove(task.name)
                worker.begin(task.name, task.call, task.arguments)
                say(f"start   {task.name}, about {in_words(self.forecast.seconds(task.name))}")

    def _epoch(self, name: str, done: int, total: int) -> None:
        """Take in how far a training is; those inside steps and attacks say nothing about the whole."""
        if self.plan.tasks[name].epochs:
            now = time.monotonic()
            began = self.epochs[name][2] if name in self.epochs and done else now
            self.epochs[name] = (done, total, began, now)
            if done:
                self.forecast.learn(name, (now - began) / done * self.plan.tasks[name].epochs)

    def _end(self, worker: Worker, message: Mapping[str, Any]) -> None:
        name, worker.task = str(worker.task), None
        self.epochs.pop(name, None)
        self.ended[name] = {"state": message["event"], "seconds": round(message["seconds"], 1)}
        if message["event"] == "done":
            self.done.add(name)
            self.forecast.learn(name, message["seconds"])
            say(f"done    {name}, {message['seconds']:.1f} s")
            return
        self.ended[name]["error"] = message["error"]
        say(f"FAILED  {name}: {message['error']} (see {worker.log})")
        if worker.process.is_alive():  # a device that failed once may fail again
            self.pool.replace(worker)

    def _stopped(self, worker: Worker) -> None:
        if worker.task is not None:
            self.ended[worker.task] = {"state": "stopped", "seconds": round(time.monotonic() - worker.began, 1)}
            self.epochs.pop(worker.task, None)


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
        out: the archive; one that is there already, of the same scale and settings, is gone on with.
        entry: of config/queue.yaml, in place of scale and only; its seeds and minutes where none are given.
    Returns: 0, or 1 where a task failed.
    Raises: ConfigError for what does not exist, and where data are missing; ArchiveError for another archive at `out`.
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
    plan, archive = Plan(preset, only, seeds), Archive(out, preset)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with jobs.alone(preset.name):
        archive.begin()
        box = Box(plan, Pool(preset.name, processes, preset.compute.threads), archive, limit)
        try:
            if not dry_run:
                box.pool.start()
            box.done = survey(plan)
            taken, _ = box.admitted({f"worker {number}": START_UP for number in range(processes)})
            for goal in plan.goals:
                needed = plan.closure(goal.tasks, box.done)
                state = "is there" if not needed else "fits" if goal in taken else "does not fit"
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
