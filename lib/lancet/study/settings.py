"""What the studies of AI-Lancet share: settings, networks, and the parts of a test set."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from lib import config, data, evaluations
from lib.data import ImageSet, splits

TARGET = 0  # the class that every backdoor answers with
REPAIR, REPORT = "repair", "report"


def settings(scale: str, defaults: dict[str, Any] | None = None) -> dict[str, Any]:
    """A scale's settings of these studies, with `defaults` for what it leaves out."""
    return evaluations.settings(scale, "lancet", defaults)


@lru_cache(maxsize=8)
def parts(scale: str, name: str) -> tuple[ImageSet, ImageSet]:
    """A set's test images in two parts that share none, class by class.

    Returns: those that pairs, thresholds and layers are chosen on (`repair_images` of them), and those that every
        reported number is of (up to `report_images`).
    """
    chosen = settings(scale, {"repair_images": 1000, "report_images": None})
    test = data.load(name, "test")
    share = min(0.5, chosen["repair_images"] / len(test))
    report, repair = splits.partition(test.labels.numpy(), share)
    reported = test.part(report, REPORT)
    limit = chosen["report_images"]
    if limit is not None and limit < len(reported):
        reported = reported.stratified(limit, seed=0)
    return test.part(repair, REPAIR), reported


def networks(scale: str, family: str) -> list[str]:
    """The backdoored networks of a family, in the order of the configuration."""
    preset = config.load(scale)
    return [name for name in preset.families.get(family, []) if "-clean" not in name]


def spread(images: ImageSet, count: int, target: int | None = None) -> torch.Tensor:
    """Positions of the first `count` images, the classes taking turns, none of the target class."""
    order = torch.from_numpy(splits.stratified(images.labels.numpy(), len(images), 0))
    kept = order if target is None else order[images.labels[order] != target]
    return kept[:count]
