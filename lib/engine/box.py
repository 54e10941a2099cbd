"""A time box: as many goals as can be finished in some minutes, by workers that share a device, kept in one archive."""

import heapq
import signal
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from lib import config
from lib.config import in_words
from lib.engine import jobs
from lib.engine.archive import Archive
from lib.engine.jobs import say
from lib.engine.plan import Goal, Plan, Task, survey
from lib.engine.workers import Pool, Worker

UNKNOWN = 20.0  # seconds of a task, or of an epoch, of which nothing is known yet
OVERHEAD = 3.0  # seconds of a training beside its epochs: it loads the images and counts the test accuracy
CAUTION = 1.1  # what is not begun may take this much longer than estimated
RESERVE = 15.0  # seconds kept for the last writing of the archive; a tenth of the time where that is less
REFRESH = 10.0  # seconds after which the archive is written again where a task has ended
AT_LEAST = 30.0  # seconds after which it is written again whatever has happened: steps keep tables before they end
THINK = 5.0  # seconds after which the plan is looked at again though nothing has ended
START_UP = 15.0  # seconds that a worker takes until it is ready


class Forecast:
    """Seconds a task takes beside as many others as run at a time: by the scale's `estimate:`, then as measured.

    A training takes the seconds an image of the last one of the same label, or, where there is none, the estimate times
    the median of what others took over what was estimated; any other task the mean of those of its kind and label.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pace: dict[tuple[str, str], list[float]] = {}  # seconds of a unit of work, by kind and label
        self.ratios: dict[str, float] = {}  # measured over estimated seconds of trainings, by label

    def seconds(self, name: str) -> float:
        """The best estimate of a task's seconds."""
        task, guessed = self.plan.tasks[name], self.plan.seconds(name)
        beside = OVERHEAD if task.epochs else 0.0
        if _group(task) in self.pace:
            return mean(self.pace[_group(task)]) * self._work(task) + beside
        if guessed is None:
            return UNKNOWN * max(task.epochs, 1) + beside
        return guessed * (median(self.ratios.values()) if task.epochs and self.ratios else 1.0) + beside

    def learn(self, name: str, seconds: float) -> None:
        """Take in the seconds of a task; of a training those of all its epochs, as the ones so far have them."""
        task, guessed = self.plan.tasks[name], self.plan.seconds(name)
        before = [] if task.epochs else self.pace.get(_group(task), [])  # the pace of now: others share the device
        self.pace[_group(task)] = [*before, seconds / self._work(task)]
        if task.epochs and guessed:
            self.ratios[task.label] = seconds / guessed

    def _work(self, task: Task) -> float:
        """Images that a training sees; 1 for anything else."""
        return task.epochs * (config.images_of(self.plan.scale, task.network) or 1) if task.epochs else 1


def _group(task: Task) -> tuple[str, str]:
    return ("train" if task.kind == "trunk" else task.kind), task.label


def finish_times(
    order: Sequence[str],
    seconds: Mapping[str, float],
    after: Mapping[str, Iterable[str]],
    running: Mapping[str, float],
    workers: int,
) -> dict[str, float]:
    """Seconds from now at which tasks end, where each free worker takes the first task in order that can begin.

    Args:
        order: tasks not begun; what they wait for and is neither here nor running is done.
        running: seconds that tasks at work still take, each on a worker of its own.
    """
    place = {name: number for number, name in enumerate(order)}
    waiting = {name: {other for other in after[name] if other in place or other in running} for name in order}
    children = _children(order, after)
    ready = [place[name] for name in order if not waiting[name]]
    busy = [(left, name) for name, left in running.items()]
    heapq.heapify(busy)
    now, found = 0.0, dict[str, float]()
    while busy or ready:
        while len(busy) < workers and ready:
            name = order[heapq.heappop(ready)]
            heapq.heappush(busy, (now + seconds[name], name))
        now, name = heapq.heappop(busy)
        found[name] = now
        for child in children.get(name, ()):
            waiting[child].discard(name)
            if not waiting[child]:
                heapq.heappush(ready, place[child])
    return found


def _children(names: Iterable[str], after: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Task -> those of the named that wait for it."""
    found: dict[str, list[str]] = {}
    for name in names:
        for other in after[name]:
            found.setdefault(other, []).append(name)
    return found


def admit(
    plan: Plan,
    forecast: Forecast,
    done: Collection[str],
    lost: Collection[str],
    running: Mapping[str, float],
    workers: int,
    left: float,
) -> tuple[list[Goal], list[str]]:
    """The goals that fit into the time that is left, in order of priority, and their tasks in the order to begin them.

    A goal is taken where it, and every one taken before it, still ends in time. Into what is left then go parts of the
    goals that do not fit: a network with its evaluation, a step.

    Args:
        done, lost: tasks that are done; that failed, or cannot be done.
        running: seconds that tasks at work still take; those that no goal here needs keep their worker as well.
        left: seconds.
    Returns: the goals, parts of goals as goals of one task, and the tasks not begun, the first to begin first.
    """
    goals = [goal for goal in plan.goals if not set(goal.tasks) <= set(done)]
    for goal in list(goals):
        inner = plan.closure(other for name in goal.tasks for other in plan.tasks[name].after)
        parts = sorted(name for name in inner if plan.tasks[name].kind == "part")
        goals += [
            Goal(name, goal.seed, (name,)) for name in (*parts, *goal.tasks) if name in parts or name not in inner
        ]
    after = {name: task.after for name, task in plan.tasks.items()}
    seconds = {name: forecast.seconds(name) * CAUTION for name in plan.tasks if name not in done}
    free = left * workers - sum(min(still, left) for still in running.values())
    taken, order = list[Goal](), list[str]()
    for goal in goals:
        need = plan.closure(goal.tasks, done)
        new = need - set(order) - set(running)
        if need & set(lost) or sum(seconds[name] for name in new) > free:
            continue
        length = chains(new, seconds, after)
        trial = order + sorted(new, key=lambda name: (-length[name], name))
        ends = finish_times(trial, seconds, after, running, workers) if new or goal in plan.goals else {}
        if all(ends.get(name, 0.0) <= left for name in (*trial, *need)):
            taken.append(goal)
            order, free = trial, free - sum(seconds[name] for name in new)
    return taken, order


def chains(
    names: Collection[str], seconds: Mapping[str, float], after: Mapping[str, Iterable[str]]
) -> dict[str, float]:
    """Seconds from each task's start to the end of the longest chain of tasks that wait for it."""
    found, children = dict[str, float](), _children(names, after)

    def length(name: str) -> float:
        if name not in found:
            found[name] = seconds[name] + max(map(length, children.get(name, ())), default=0.0)
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
        planned, written, told = 0.0, time.monotonic(), 0
        order: list[str] = []
        while (now := time.monotonic()) < self.limit:
            if now - planned > THINK:
                order, planned = self.think(), now
            self._assign(order)
            if not order and not any(worker.task for worker in self.pool.workers):
                break
            for worker, message in self.pool.messages(max(min(THINK, self.limit - now), 0.0)):
                if message["event"] == "epoch":
                    self._epoch(str(worker.task), message)
                    continue
                planned = 0.0
                if message["event"] != "ready" and worker.task is not None:
                    self._end(worker, message)
            if time.monotonic() - written > (REFRESH if len(self.ended) > told else AT_LEAST):
                try:
                    self.write(over=False)
                except OSError as error:  # what is finished is in the cache; the next time may go better
                    say(f"the archive could not be written: {error}")
                written, told = time.monotonic(), len(self.ended)

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
        self.archive.write(
            {
                **self.pool.machine,
                "processes": len(self.pool.workers),
                "asked": list(left),
                "finished": [name for name, tasks in left.items() if not tasks],
                "unfinished": {name: tasks for name, tasks in left.items() if tasks},
                "tasks": self.ended,
                "over": over,
            }
        )

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
        taken, order = self._admitted(running)
        needed = self.plan.closure(name for goal in taken for name in goal.tasks)
        late = {name for name in running if name in self.epochs and self.epochs[name][0] and name not in needed}
        freed = {name: START_UP if name in late else seconds for name, seconds in running.items()}
        if late:
            instead, other = self._admitted(freed, late)
            if {goal.name for goal in instead} - {goal.name for goal in taken}:
                self._give_way(late)
                return other
        return order

    def _admitted(self, running: Mapping[str, float], late: Collection[str] = ()) -> tuple[list[Goal], list[str]]:
        """What can be finished; what failed, or gave way before, is not tried again."""
        lost = {name for name, went in self.ended.items() if went["state"] != "done"} | set(late)
        left, count = self.limit - time.monotonic(), len(self.pool.workers)
        return admit(self.plan, self.forecast, self.done, lost, running, count, left)

    def _still(self, name: str, spent: float) -> float:
        """Seconds that a task still takes: by its epochs where one is done, else by the estimate."""
        done, total, began, last = self.epochs.get(name, (0, 0, 0.0, 0.0))
        if done:
            left = (last - began) / done * (total - done) + OVERHEAD / 2
            return max(left - (time.monotonic() - last), 0.1)
        return max(self.forecast.seconds(name) - spent, 0.2 * spent)

    def _give_way(self, names: Collection[str]) -> None:
        for worker in list(self.pool.workers):
            if worker.task is not None and worker.task in names:
                say(f"ended   {worker.task}: as measured, it cannot be finished in time")
                self.ended[worker.task] = {"state": "stopped", "seconds": round(time.monotonic() - worker.began, 1)}
                self.epochs.pop(worker.task)
                self.pool.replace(worker)

    def _assign(self, order: list[str]) -> None:
        """Hand tasks whose inputs are done to workers that wait."""
        ready = [name for name in order if set(self.plan.tasks[name].after) <= self.done]
        for worker in self.pool.workers:
            if worker.ready and worker.task is None and ready:
                task = self.plan.tasks[ready.pop(0)]
                order.remove(task.name)
                worker.begin(task.name, task.call, task.arguments)
                say(f"start   {task.name}, about {in_words(self.forecast.seconds(task.name))}")

    def _epoch(self, name: str, message: Mapping[str, Any]) -> None:
        """Take in how far a training is; those inside steps and attacks say nothing about the whole."""
        if self.plan.tasks[name].epochs:
            now, done = time.monotonic(), message["done"]
            began = self.epochs[name][2] if name in self.epochs and done else now
            self.epochs[name] = (done, message["total"], began, now)
            if done:
                self.forecast.learn(name, (now - began) / done * self.plan.tasks[name].epochs)

    def _end(self, worker: Worker, message: Mapping[str, Any]) -> None:
        name, worker.task = str(worker.task), None
        task, seconds = self.plan.tasks[name], round(message["seconds"], 1)
        self.epochs.pop(name, None)
        if message["event"] == "done":
            self.ended[name] = {"state": "done", "seconds": seconds}
            self.done.add(name)
            images = config.images_of(self.plan.scale, task.network) if task.epochs else None
            if images and seconds:
                self.ended[name]["images_per_second"] = round(images * task.epochs / seconds)
            if not task.epochs:
                self.forecast.learn(name, message["seconds"])
            say(f"done    {name}, {seconds:.1f} s")
            return
        self.ended[name] = {"state": "failed", "seconds": seconds, "error": message["error"]}
        say(f"FAILED  {name}: {message['error']} (see {worker.log})")
        if worker.process.is_alive():  # a device that failed once may fail again
            self.pool.replace(worker)


def run(
    scale: str,
    only: Sequence[str],
    seeds: Sequence[int],
    minutes: float,
    processes: int,
    out: Path,
    dry_run: bool = False,
) -> int:
    """Carry out a time box, or with dry_run say what fits into it.

    Args:
        scale: smoke, cpu, gpu or paper.
        only, seeds: as `Plan` takes them.
        minutes: from now until the archive is written for the last time.
        processes: workers at a time, all on the devices of this machine.
        out: the archive; one that is there already, of the same scale and settings, is gone on with.
    Returns: 0, or 1 where a task failed.
    Raises: ConfigError for what does not exist, and where data are missing; ArchiveError for another archive at `out`.
    """
    limit = time.monotonic() + minutes * 60 - min(RESERVE, minutes * 6)
    preset = config.load(scale)
    plan, archive = Plan(preset, only, seeds), Archive(out, preset)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with jobs.alone(scale):
        archive.begin()
        pool = Pool(scale, 0 if dry_run else processes, preset.compute.threads)
        try:
            box = Box(plan, pool, archive, limit)
            box.done = survey(plan)
            if dry_run:
                print(words(box, processes, minutes))
                return 0
            say(f"{scale}: {', '.join(goal.name for goal in plan.goals)}; {minutes:g} minutes, {processes} processes")
            try:
                box.run()
            finally:
                box.stop()
        finally:
            pool.end()
    left = box.left()
    print(f"finished: {', '.join(name for name, tasks in left.items() if not tasks) or 'nothing'}")
    print(
        "".join(f"not finished: {name}, {len(tasks)} tasks are left\n" for name, tasks in left.items() if tasks), end=""
    )
    print(f"archive: {out}")
    return 1 if any(went["state"] == "failed" for went in box.ended.values()) else 0


def words(box: Box, processes: int, minutes: float) -> str:
    """The plan in words: each goal with its tasks and their estimated time, and what fits."""
    left = box.limit - time.monotonic() - START_UP
    taken, order = admit(box.plan, box.forecast, box.done, (), {}, processes, left)
    lines, shown = [], set(box.done)
    for goal in box.plan.goals:
        needed = box.plan.closure(goal.tasks, box.done)
        mine = [name for name in box.plan.tasks if name in needed and name not in shown]
        shown.update(mine)
        state = "is there" if not needed else "fits" if goal in taken else "does not fit"
        lines.append(f"{goal.name}: {state}, {in_words(sum(map(box.forecast.seconds, mine)))} of one process")
        for name in mine:
            sure = "" if box.plan.seconds(name) is not None else ", a guess: the scale's `estimate:` does not say"
            begun = "" if name in order else ", not begun"
            lines.append(f"  {name}: {in_words(box.forecast.seconds(name))}{sure}{begun}")
    total = in_words(sum(box.forecast.seconds(name) for name in shown - box.done))
    return "\n".join([*lines, f"In all {total} of one process, shared by {processes}; {minutes:g} min are given."])
