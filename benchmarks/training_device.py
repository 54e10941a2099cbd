"""Images a second that training reaches on one device, in one process and in several that share it.

Run as `python -m benchmarks.training --device cuda`. Ours is `lib.training.fit` as the zoo calls it: deterministic,
bfloat16, channels_last, batches cut out on the device. The peer is the plain loop in one process of its own: float32
with torch's own settings (TF32 in convolutions), NCHW, eager, torchvision's transforms in a DataLoader's workers and
pinned memory. Each network's peer and all of its rows are measured in one run; processes start once and serve all rows.
Four networks in 1, 4, 8 and 12 processes take 20 rows: about nine minutes with 20 seconds a row.

`equal`: in true float32 and without augmentation, `STEPS` small steps of both sides from the same weights move the
logits alike: they end apart by at most `TOLERANCE` of the way that they went. Larger steps multiply the rounding of
sums in another order up to where nothing can be compared.
"""

import json
import multiprocessing
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks import training
from lib import compute
from lib.config import Recipe
from lib.data import ImageSet
from lib.training import Hook, Run, fit

NETWORKS = {
    "ResNet18": ("resnet18", 64),
    "VGG16": ("vgg16-bn", 64),
    "ResNet-20": ("resnet20", 16),
    "ResNet10": ("resnet10-preact", 16),
}
STEPS, RATE, TOLERANCE = 2, 1e-4, 0.05
Ready = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """What a process measures: a side of a network, after `warm` steps, for so many seconds."""

    side: str
    network: str
    batch: int
    warm: int
    seconds: float
    workers: int = 0
    compile: str | None = None

    @property
    def recipe(self) -> Recipe:
        """More epochs than the time allows, so that the clock ends them."""
        arch, width = NETWORKS[self.network]
        given: dict[str, Any] = {"arch": arch, "arch_args": {"width": width}, "data": "cifar10"}
        return Recipe(**given, epochs=10**6, batch=self.batch, augment=("crop", "flip"))


class Over(Exception):
    """The time is over."""


class Timed(Hook):
    """Counts the steps after the first `warm` until the seconds are over, then ends the training."""

    def __init__(self, job: Job, ready: Ready) -> None:
        self.job, self.ready, self.started = job, ready, time.perf_counter()

    def step(self, run: Run) -> None:
        self.count(run.step, run.device)

    def count(self, steps: int, device: torch.device) -> None:
        """After each step. Raises: Over, with `steps` and `took` set, when all that was begun is computed."""
        if steps == self.job.warm:
            _wait(device)
            self.warm = time.perf_counter() - self.started
            self.ready()
            self.began = time.perf_counter()
        elif steps > self.job.warm and time.perf_counter() - self.began >= self.job.seconds:
            _wait(device)
            self.took, self.steps = time.perf_counter() - self.began, steps - self.job.warm
            raise Over

    def found(self, batch: int) -> tuple[float, float]:
        """Images a second, and the seconds that the first steps took, kernels and compiling included."""
        return self.steps * batch / self.took, self.warm


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(train: ImageSet, job: Job, device: torch.device, ready: Ready) -> tuple[float, float]:
    """Images a second of `fit`, and the seconds of its first steps."""
    compute.deterministic()
    model: Any = training.network(0, *NETWORKS[job.network])
    clock = Timed(job, ready)
    if job.compile:
        model = torch.compile(model.to(device), mode=job.compile)
    with suppress(Over):
        fit(model, train, job.recipe, hooks=[clock], device=str(device))
    return clock.found(min(job.batch, len(train)))


def peer(train: ImageSet, job: Job, device: torch.device, ready: Ready) -> tuple[float, float]:
    """The same of the plain loop."""
    torch.backends.cudnn.allow_tf32 = True  # torch's default, which `compute.device` has turned off
    torch.set_deterministic_debug_mode("default")
    model = training.network(0, *NETWORKS[job.network]).to(device).train()
    optimizer = training.plain_optimizer(model, job.recipe)
    batch, clock, steps = min(job.batch, len(train)), Timed(job, ready), 0
    loader = DataLoader(
        training.Pictures(train),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        pin_memory=device.type == "cuda",
    )
    with suppress(Over):
        while True:
            for pictures, labels in loader:
                pictures, labels = pictures.to(device, non_blocking=True), labels.to(device, non_blocking=True)
                optimizer.zero_grad()
                F.cross_entropy(model(pictures), labels).backward()
                optimizer.step()
                steps += 1
                clock.count(steps, device)
    return clock.found(batch)


def difference(train: ImageSet, job: Job, device: torch.device, ready: Ready) -> tuple[float, float]:
    """How far apart the two sides' logits end after `STEPS`, as a share of how far the peer's went; and 0."""
    compute.true_float32()
    images = train.subset(slice(0, job.batch))
    recipe = replace(job.recipe, epochs=STEPS, augment=(), precision="float32")
    recipe = replace(recipe, schedule="constant", learning_rate=RATE)
    mine, plain, start = (training.network(0, *NETWORKS[job.network]).to(device) for _ in range(3))
    ready()
    fit(mine, images, recipe, device=str(device))
    optimizer = training.plain_optimizer(plain, recipe)
    pictures, labels = images.float(device), images.labels.to(device)
    plain.train()
    for _ in range(recipe.epochs):
        optimizer.zero_grad()
        F.cross_entropy(plain(pictures), labels).backward()
        optimizer.step()
    with torch.no_grad():
        one, other, first = (model.train()(pictures) for model in (mine, plain, start))
    return float((one - other).norm() / (other - first).norm()), 0.0


SIDES = {"ours": ours, "peer": peer, "difference": difference}


def serve(pipe: Connection, device: str, images: int) -> None:
    """A process: jobs come in, "ready" and then what was found, or an error's text, goes out."""
    torch.set_num_threads(1)
    train, _, _ = training.subject(images, 10)

    def ready() -> None:
        pipe.send("ready")
        pipe.recv()

    with suppress(EOFError):  # the one that asks has gone
        while (job := pipe.recv()) is not None:
            try:
                pipe.send(SIDES[job.side](train, job, compute.device(device), ready))
            except Exception as error:  # whatever it is, the one that asks says so
                pipe.send(f"{type(error).__name__}: {error}")


@contextmanager
def processes(count: int, device: str, images: int) -> Iterator[list[Connection]]:
    """So many processes with the images loaded, started afresh, gone at the end."""
    spawn, pipes, started = multiprocessing.get_context("spawn"), [], []
    try:
        for _ in range(count):
            here, there = spawn.Pipe()
            process = spawn.Process(target=serve, args=(there, device, images))
            process.start()
            there.close()  # so that a process that dies ends the waiting for it
            pipes.append(here)
            started.append(process)
        yield pipes
        for pipe in pipes:
            pipe.send(None)
        for process in started:
            process.join(30)
    finally:
        for process in started:
            process.kill()


def ask(pipes: Sequence[Connection], job: Job) -> list[tuple[float, float]]:
    """What each process finds, all of them measuring at the same time. Raises: RuntimeError where one fails."""
    for pipe in pipes:
        pipe.send(job)
    for wanted in (str, tuple):  # each is ready; then each has measured
        answers = [_heard(pipe, job) for pipe in pipes]
        for answer in answers:
            if not isinstance(answer, wanted) or (wanted is str and answer != "ready"):
                raise RuntimeError(f"{job.side} of {job.network} in {len(pipes)} process(es): {answer}")
        if wanted is str:
            for pipe in pipes:
                pipe.send("go")
    return answers


def _heard(pipe: Connection, job: Job) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError(f"a process that measured {job.side} of {job.network} has died: out of memory?") from error


def measure(chosen: Namespace) -> list[dict[str, Any]]:
    """All rows: network, side, processes, images a second in all, and the seconds of the slowest one's first steps."""
    rows: list[dict[str, Any]] = []

    def row(pipes: Sequence[Connection], job: Job) -> None:
        found = ask(pipes, job)
        total, warm = sum(rate for rate, _ in found), max(seconds for _, seconds in found)
        about = {"network": job.network, "side": job.side, "processes": len(pipes)}
        rows.append({**about, "compile": job.compile, "images_per_second": total, "warm_seconds": warm})
        words = f"{job.side}{' compiled' if job.compile else ''}, {len(pipes)} process(es)"
        print(f"  {job.network}, {words}: {total:,.0f} images a second, first steps {warm:.1f} s", flush=True)

    jobs = [Job("", name, chosen.batch, chosen.warm, chosen.seconds) for name in chosen.networks]
    with processes(1, chosen.device, chosen.images) as pipes:
        for job in jobs:
            row(pipes, replace(job, side="peer", workers=max(chosen.workers)))
    with processes(max(chosen.processes), chosen.device, chosen.images) as pipes:
        for job in jobs:
            ((apart, _),) = ask(pipes[:1], replace(job, side="difference"))
            rows.append({"network": job.network, "side": "difference", "difference": apart})
            for mode in (None, chosen.compile) if chosen.compile else (None,):
                for count in chosen.processes:
                    row(pipes[:count], replace(job, side="ours", compile=mode))
    return rows


def main(chosen: Namespace) -> None:
    """Measure and print. Exits where the device is not there or a network is not known."""
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks.training: no CUDA device is there; --device cpu measures the same on this machine")
    if unknown := [name for name in chosen.networks if name not in NETWORKS]:
        raise SystemExit(f"benchmarks.training: no network {unknown[0]!r}: one of {', '.join(NETWORKS)}")
    train, _, what = training.subject(chosen.images, 10)
    about = f"{compute.describe()}, {os.cpu_count()} cores"
    print(f"Training on {what}, {len(train):,} images, batch {chosen.batch}, {chosen.seconds:g} s a row, on {about}")
    rows = measure(chosen)

    def rate(side: str, **where: Any) -> float:
        where = {"network": chosen.networks[0], "side": side, **where}
        return next(r["images_per_second"] for r in rows if where.items() <= r.items())

    seconds = {
        side: len(train) / rate(side, processes=count, compile=None)
        for side, count in (("ours", chosen.processes[0]), ("peer", 1))
    }
    differences = {r["network"]: r["difference"] for r in rows if r["side"] == "difference"}
    report = {
        "benchmark": "training",
        "peer": f"float32 NCHW eager, one process, torchvision in a DataLoader of {max(chosen.workers)} workers",
        "network": chosen.networks[0],
        "processes": chosen.processes[0],
        "ratio": seconds["peer"] / seconds["ours"],
        "seconds": seconds["ours"],
        "peer_seconds": seconds["peer"],
        "subject": what,
        "images": len(train),
        "batch": chosen.batch,
        "device": about,
        "rows": [r for r in rows if r["side"] != "difference"],
        "differences": differences,
        "tolerance": TOLERANCE,
        "equal": all(apart <= TOLERANCE for apart in differences.values()),
    }
    print(json.dumps(report))
