"""What the studies of AI-Lancet share: settings, networks, and the parts of a test set."""

from __future__ import annotations

from collections.abc import Sequence
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


def seeds_of(scale: str, own: str, seeds: Sequence[int] | int | None = None) -> list[int]:
    """The seeds given, else those of one study, else those of all.

    Args:
        own: the experiment's section, as "defects".
    """
    named = config.load(scale).study["lancet"].get(own, {}).get("seeds")
    return evaluations.seeds_of(scale, "lancet", named if seeds is None else seeds)


def seeds_for(scale: str, own: str, seed: int) -> list[int]:
    """The seeds that a node of the graph for one of `study.lancet`'s seeds computes: its own, and for the first one
    those of the study that the graph has no node for."""
    nodes = evaluations.seeds_of(scale, "lancet")
    mine = seeds_of(scale, own)
    return [seed, *(each for each in mine if each not in nodes)] if seed == nodes[0] else [seed]


def spread(images: ImageSet, count: int, target: int | None = None) -> torch.Tensor:
    """Positions of the first `count` images, the classes taking turns, none of the target class."""
    order = torch.from_numpy(splits.stratified(images.labels.numpy(), len(images), 0))
    kept = order if target is None else order[images.labels[order] != target]
    return kept[:count]
