"""The one training loop: batches in memory, schedules, hooks, a checkpoint a minute, exact resume."""

import pickle
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib import compute, store
from lib.config import Recipe
from lib.data import ImageSet
from lib.progress import bar

VERSION = 1  # raise it when a change here changes the networks that come out
CHECKPOINT_SECONDS = 60.0  # between two checkpoints: each takes up to 200 MB to the disk, some epochs take a second


class TrainingError(RuntimeError):
    """Training that cannot go on: a loss that is not finite, or a checkpoint that does not fit."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or belongs to another training; `path` is its file."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class Hook:
    """Plugs a method into training; override what the method needs. Raise `version` when its numbers change."""

    version = 1

    def begin(self, run: "Run") -> None:
        """Once before the first step, and again after a resume, before `load_state`."""

    def images(self, run: "Run", images: Tensor, labels: Tensor) -> Tensor:
        """The batch to train on, (B, C, H, W) in [0, 1]."""
        return images

    def loss(self, run: "Run", loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss to descend."""
        return loss

    def step(self, run: "Run") -> None:
        """After each optimiser step; `run.step` counts it already."""

    def end(self, run: "Run") -> None:
        """After the last step."""

    def measures(self, run: "Run") -> dict[str, float]:
        """What is told of an epoch that has ended, in its entry of the history."""
        return {}

    def state(self) -> dict[str, Any]:
        """Tensors and numbers to checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


@dataclass
class Run:
    """A training under way, as hooks see it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    device: torch.device
    generator: torch.Generator
    steps_per_epoch: int
    total_steps: int
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.steps_per_epoch

    @property
    def temperature(self) -> float:
        """T of the training loss."""
        return self.recipe.temperature

    def autocast(self) -> AbstractContextManager:
        """The precision of the forward passes."""
        return compute.autocast(self.device, self.recipe.precision)


class Batches:
    """Augmented batches of an image set held on the device as uint8.

    Args:
        images: the set; its images stay uint8 (N, C, H, W).
        recipe: batch size, augmentation, memory format.
        device: where the batches are made.
        generator: CPU generator of the order and of the augmentation, so that every device sees the same images.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, device: torch.device, generator: torch.Generator) -> None:
        if not images.in_memory:
            raise TrainingError(f"{images!r} stays on disk: train on a part of it in memory, with train_limit")
        self.pad = images.images.shape[-1] // 8 if "crop" in recipe.augment else 0
        held = F.pad(images.images, (self.pad,) * 4).permute(0, 2, 3, 1)  # NHWC: a crop is then channels_last
        self.channels, self.size = held.shape[-1], tuple(images.images.shape[-2:])
        self.packed = held.dtype == torch.uint8 and self.channels in (3, 4)
        if self.packed:  # one 32-bit word a pixel: gathering words is nine times faster than gathering bytes
            held = F.pad(held, (0, 4 - self.channels)).contiguous().view(torch.int32)
        self.held, self.labels = held.contiguous().to(device), images.labels.to(device)
        self.recipe, self.device, self.generator = recipe, device, generator
        rows, columns = (torch.arange(length, device=device) for length in self.size)
        self.rows, self.columns = (rows * self.held.shape[2])[:, None], columns

    def __len__(self) -> int:
        return max(1, len(self.labels) // self.recipe.batch)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in a fresh order; a last batch that is not full is left out, unless it is the only one."""
        order = torch.randperm(len(self.labels), generator=self.generator)
        for start in range(0, len(self) * self.recipe.batch, self.recipe.batch):
            yield self._augment(order[start : start + self.recipe.batch])

    def _augment(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images (B, C, H, W) and labels (B,) of an index (B,) on the CPU, cropped and mirrored at random."""
        count, (height, width) = len(index), self.size
        begin, turn = index * self.held.shape[1] * self.held.shape[2], torch.ones_like(index)
        if self.pad:
            top = torch.randint(0, 2 * self.pad + 1, (count,), generator=self.generator)
            left = torch.randint(0, 2 * self.pad + 1, (count,), generator=self.generator)
            begin = begin + top * self.held.shape[2] + left
        if "flip" in self.recipe.augment:
            mirrored = torch.rand(count, generator=self.generator) < 0.5
            begin, turn = torch.where(mirrored, begin + width - 1, begin), torch.where(mirrored, -1, turn)
        # Where each image's first row begins and which way it runs, a few KB, is all that travels to the device.
        index, begin, turn = torch.stack((index, begin, turn)).to(self.device, non_blocking=True)
        pixels = self.rows + (begin[:, None] + turn[:, None] * self.columns)[:, None, :]
        images = self.held.view(-1, self.held.shape[-1])[pixels.view(-1)]
        images = images.view(torch.uint8)[:, : self.channels] if self.packed else images
        images = images.view(count, height, width, self.channels).permute(0, 3, 1, 2)
        images = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        return images if self.recipe.channels_last else images.contiguous(), self.labels[index]


def fit(
    model: nn.Module,
    images: ImageSet,
    recipe: Recipe,
    seed: int = 0,
    hooks: Sequence[Hook] = (),
    checkpoint: Path | None = None,
    trunk: Path | None = None,
    until: int | None = None,
    device: str = "auto",
) -> list[dict[str, float]]:
    """Train a network in place.

    Args:
        model: takes float images (B, C, H, W) in [0, 1] to logits.
        images: training images and labels.
        recipe: epochs, batch, optimiser, schedule, temperature, augmentation, precision.
        seed: of the batch order, augmentation, dropout; the same seed gives the same bytes on one machine.
        hooks: methods plugged in, in order.
        checkpoint: file written after the first epoch that ends `CHECKPOINT_SECONDS` or more after the last one, and
            after the last epoch asked for; where it exists, training goes on from it to the result that an
            uninterrupted run gives, bit for bit.
        trunk: a checkpoint of the same recipe without hooks to branch from, where `checkpoint` does not exist yet.
        until: stop after that many epochs, as the schedule of all of them has it.
        device: as `lib.compute.device` takes it.
    Returns: one mapping an epoch: epoch, loss, accuracy (of the augmented training batches), seconds, and what hooks
        measure.
    Raises: TrainingError where the loss is not finite; CheckpointError where a checkpoint is damaged or belongs to
        another training.
    """
    on = compute.device(device)
    model.to(on).to(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
    with torch.random.fork_rng(devices=[on] if on.type == "cuda" else []):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        batches = Batches(images, recipe, on, generator)
        total = len(batches) * recipe.epochs
        run = Run(model, _optimizer(model, recipe, on), recipe, on, generator, len(batches), total)
        _begin(run, hooks, checkpoint, trunk)
        last = recipe.epochs if until is None else min(until, recipe.epochs)
        model.train()
        kept = time.monotonic()
        for _ in bar(range(run.epoch, last), desc="epochs", total=last - run.epoch):
            run.history.append(_epoch(run, batches, hooks))
            due = run.epoch == last or time.monotonic() - kept >= CHECKPOINT_SECONDS
            if checkpoint is not None and due:
                save_checkpoint(run, hooks, checkpoint)
                kept = time.monotonic()
        if last == recipe.epochs:
            for hook in hooks:
                hook.end(run)
    model.eval()
    return run.history


def _begin(run: Run, hooks: Sequence[Hook], checkpoint: Path | None, trunk: Path | None) -> None:
    resumed = checkpoint is not None and checkpoint.exists()
    if not resumed and trunk is not None:
        load_checkpoint(run, (), trunk)
    for hook in hooks:
        hook.begin(run)
    if resumed and checkpoint is not None:
        load_checkpoint(run, hooks, checkpoint)


def _epoch(run: Run, batches: Batches, hooks: Sequence[Hook]) -> dict[str, float]:
    began = time.perf_counter()
    losses = torch.zeros((), device=run.device)
    right = torch.zeros((), device=run.device)
    for count, (images, labels) in enumerate(batches.epoch(), 1):
        for hook in hooks:
            images = hook.images(run, images, labels)
        with run.autocast():
            logits = run.model(images)
        logits = logits.float()
        loss = F.cross_entropy(logits / run.temperature, labels, label_smoothing=run.recipe.label_smoothing)
        losses += loss.detach()
        right += (logits.detach().argmax(1) == labels).float().mean()
        for hook in hooks:
            loss = hook.loss(run, loss, logits, labels)
        set_learning_rate(run.optimizer, run.recipe, run.step, run.total_steps)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        run.optimizer.step()
        run.step += 1
        for hook in hooks:
            hook.step(run)
        if (count % 50 == 0 or count == len(batches)) and not torch.isfinite(losses):
            epoch = (run.step - 1) // run.steps_per_epoch + 1
            raise TrainingError(
                f"the training loss is {losses.item()} at step {run.step} of {run.total_steps} (epoch {epoch}): lower "
                f"learning_rate (now {run.recipe.learning_rate}) or train in float32"
            )
    return {
        "epoch": float(run.epoch),
        "loss": (losses / len(batches)).item(),
        "accuracy": (right / len(batches)).item(),
        "seconds": time.perf_counter() - began,
        **{name: value for hook in hooks for name, value in hook.measures(run).items()},
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, total: int) -> None:
    """Set the rate of step `step` of `total`, counted from 0, as the recipe's schedule has it."""
    rate = recipe.learning_rate
    if recipe.schedule == "onecycle":
        top = recipe.warmup * total
        rate *= (step + 1) / top if step + 1 <= top else (total - step) / (total - top + 1)
    elif recipe.schedule == "step":
        rate *= 0.1 ** ((step >= total / 2) + (step >= 3 * total / 4))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _optimizer(model: nn.Module, recipe: Recipe, on: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimiser; on CUDA its fused form, which steps all weights in a few launches."""
    given: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if on.type == "cuda":  # a CPU keeps the form, and so the bytes, of the networks that ship with the package
        given["fused"] = True
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **given)
    return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, nesterov=recipe.momentum > 0, **given)


def save_checkpoint(run: Run, hooks: Sequence[Hook], path: Path) -> None:
    """Write all that `load_checkpoint` needs to go on to the identical result."""
    state = {
        "version": VERSION,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "hooks": [hook.state() for hook in hooks],
        "order": run.generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
        "step": run.step,
        "total_steps": run.total_steps,
        "history": run.history,
    }
    store.write_atomic(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(run: Run, hooks: Sequence[Hook], path: Path) -> None:
    """Take back a checkpoint; no code in it is executed.

    Raises: CheckpointError naming the file where it is damaged or belongs to another training.
    """
    try:
        with zipfile.ZipFile(path) as entries:  # torch.load does not look at the checksums
            if (damaged := entries.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["version"] != VERSION or state["total_steps"] != run.total_steps:
            raise ValueError(f"it is of version {state['version']} with {state['total_steps']} steps")
        if len(state["hooks"]) != len(hooks):
            raise ValueError(f"it has {len(state['hooks'])} hooks, the training {len(hooks)}")
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        for hook, saved in zip(hooks, state["hooks"], strict=True):
            hook.load_state(saved)
        run.generator.set_state(state["order"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and run.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], run.device)
        run.step, run.history = int(state["step"]), list(state["history"])
    except Exception as error:  # torch.load raises many kinds on a damaged file; each means the same here
        code = "it holds more than tensors and numbers, and reading that would run code from the file"
        reason = code if isinstance(error, pickle.UnpicklingError) else error
        message = f"checkpoint {path} cannot be used ({reason}): delete it to train from the start"
        raise CheckpointError(message, path) from error


@torch.no_grad()
def predict(model: nn.Module, images: ImageSet, batch: int = 500, device: torch.device | None = None) -> Tensor:
    """Logits (N, classes) in float32 on the CPU, in evaluation mode; the model's mode is given back."""
    device = device or next(model.parameters()).device
    with compute.evaluation(model):
        parts = [
            model(images.float(device, torch.arange(start, min(start + batch, len(images))))).float().cpu()
            for start in range(0, len(images), batch)
        ]
    return torch.cat(parts)


def accuracy(model: nn.Module, images: ImageSet, batch: int = 500) -> float:
    """Share of images whose arg-max logit is their label, in float32."""
    return (predict(model, images, batch).argmax(1) == images.labels.cpu()).float().mean().item()
