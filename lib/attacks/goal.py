"""What the attacks share: a network made ready to be attacked, what counts as adversarial, seeds for each image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import eagerpy
import foolbox
import torch
from torch import Tensor, nn

from lib.compute import evaluation
from lib.graph import logits_in

MARGIN = 1e-4
"""Lead of the wrong class over the true one, as a share of the spread of all logits, at which attacks stop."""


@contextmanager
def attackable(model: nn.Module, seed: int = 0) -> Iterator[foolbox.PyTorchModel]:
    """The network as Foolbox takes it: as `compute.evaluation` has it, bounds (0, 1), parameters frozen, torch seeded.

    What it changes is given back at the end. Foolbox calls backward(): with the parameters frozen it neither computes
    their gradients nor leaves them behind.

    Args:
        model: (B, C, H, W) in [0, 1] -> logits (B, classes).
        seed: of torch's global generators inside the context.
    """
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), evaluation(model):
        torch.manual_seed(seed)
        for parameter in free:
            parameter.requires_grad_(False)
        try:
            yield foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
        finally:
            for parameter in free:
                parameter.requires_grad_(True)


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's parameters; the CPU for one without."""
    return next(model.parameters(), torch.empty(0)).device


@torch.no_grad()
def predictions(model: Any, images: Tensor, batch: int = 250) -> Tensor:
    """Predicted class of each image, int64 (N,) on the CPU.

    Args:
        model: a network, or one as Foolbox takes it.
        images: (N, C, H, W) in [0, 1], on any device; moved to the network's a batch at a time.
        batch: images a pass.
    """
    device = device_of(model) if isinstance(model, nn.Module) else model.device
    parts = [logits_in(model(part.to(device))).argmax(dim=1).cpu() for part in images.split(batch)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def rows_at_once(images: Tensor) -> int:
    """Images a forward pass in attacks that try many candidates for one image: few stay in a CPU's caches."""
    return 64 if images.device.type == "cpu" else 2048


class ClearlyMisclassified(foolbox.criteria.Misclassification):
    """Misclassification by a margin that the rounding of sums, in another batch or precision, cannot turn.

    Attacks that end at the decision boundary would else leave images on it that fool in one batch and not in the next.

    Args:
        labels: (N,) true classes.
        margin: least lead of the likeliest wrong class's logit, as a share of the spread of all logits.
    """

    def __init__(self, labels: Any, margin: float = MARGIN) -> None:
        super().__init__(labels)
        self.margin = margin

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        logits, restore = eagerpy.astensor_(outputs)
        return restore(eagerpy.astensor(misclassified(logits.raw, self.labels.raw, self.margin)))


def misclassified(logits: Tensor, labels: Tensor, margin: float = 0.0) -> Tensor:
    """Whether a wrong class leads by the margin: logits (B, classes), labels (B,) -> bool (B,)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    lead = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    return (logits.argmax(dim=1) != labels) & (lead >= margin * spread)


class Goal:
    """What an attack is after, for any part of its batch: a wrong class, or a class named for each image.

    Args:
        model: the network as Foolbox takes it.
        criterion: Misclassification, TargetedMisclassification, or the true labels (N,).

    Raises:
        ValueError: for any other criterion.
    """

    def __init__(self, model: Any, criterion: Any) -> None:
        self.model = model
        criterion = foolbox.attacks.base.get_criterion(criterion)
        self.margin: float = getattr(criterion, "margin", 0.0)
        self.targeted = isinstance(criterion, foolbox.criteria.TargetedMisclassification)
        if self.targeted:
            self.classes: Tensor = criterion.target_classes.raw
        elif isinstance(criterion, foolbox.criteria.Misclassification):
            self.classes = criterion.labels.raw
        else:
            raise ValueError(f"{criterion!r}: this attack takes Misclassification or TargetedMisclassification")

    def part(self, rows: Tensor) -> foolbox.criteria.Criterion:
        """The criterion for some rows of the batch."""
        if self.targeted:
            return foolbox.criteria.TargetedMisclassification(self.classes[rows])
        return ClearlyMisclassified(self.classes[rows], self.margin)

    def reached(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Whether logits (B, classes) of images that belong to `rows` (B,) of the batch are adversarial; bool (B,)."""
        classes = self.classes[rows]
        return logits.argmax(dim=1) == classes if self.targeted else misclassified(logits, classes, self.margin)

    @torch.no_grad()
    def fools(self, images: Tensor, rows: Tensor) -> Tensor:
        """Whether images (B, C, H, W) that belong to `rows` (B,) of the batch are adversarial; bool (B,)."""
        size = rows_at_once(images)
        parts = zip(images.split(size), rows.split(size), strict=True)
        found = [self.reached(self.model(part), owners) for part, owners in parts]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.bool, device=images.device)


def unpack(
    model: Any, inputs: Any, criterion: Any, early_stop: float | None, unknown: dict[str, Any]
) -> tuple[Tensor, Goal, Any]:
    """What Foolbox passes to an attack's `run`, as tensors.

    Args:
        model, inputs, criterion, early_stop: as `run` gets them; our attacks search to the end, early_stop or not.
        unknown: the keyword arguments that `run` has no name for.

    Returns:
        Images (N, C, H, W), the goal, and a function that gives a tensor the type of `inputs`.

    Raises:
        TypeError: for unknown keyword arguments.
        ValueError: for images that are not (N, C, H, W), or lie outside the model's bounds.
    """
    foolbox.attacks.base.raise_if_kwargs(unknown)
    tensor, restore = eagerpy.astensor_(inputs)
    images: Tensor = tensor.raw.detach()
    if images.ndim != 4:
        raise ValueError(f"images of shape {tuple(images.shape)}: this attack takes (N, C, H, W)")
    low, high = model.bounds
    if images.numel() and not bool(((images >= low) & (images <= high)).all()):
        raise ValueError(f"images outside [{low}, {high}]")
    return images, Goal(model, criterion), lambda result: restore(eagerpy.astensor(result))


def image_seeds(name: str, images: Tensor, seed: int) -> list[int]:
    """A seed for each image that depends on the attack, the image and `seed` alone, not on the batch it came in."""
    start = hashlib.sha256(f"{name} {seed} ".encode())
    seeds = []
    for image in images.detach().cpu().contiguous():
        digest = start.copy()
        digest.update(image.numpy().tobytes())
        seeds.append(int.from_bytes(digest.digest()[:8], "big") >> 1)
    return seeds


def generators(seeds: Sequence[int] | None, count: int) -> list[torch.Generator]:
    """A CPU generator for each image; without seeds, seeded from torch's global one.

    Raises:
        ValueError: where there is not one seed an image.
    """
    if seeds is None:
        seeds = torch.randint(2**62, (count,)).tolist()
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} images: one for each")
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniform(randoms: Sequence[torch.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), (len(randoms), *shape), of the type and device of `like`; one generator a row."""
    # Drawn on the CPU, image by image: the numbers are then the same on every device and in every batch.
    rows = [torch.rand(*shape, generator=random, dtype=torch.float32) for random in randoms]
    return torch.stack(rows).to(like) if rows else like.new_empty(0, *shape)
