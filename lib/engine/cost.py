"""Estimates of time and disk, from the rates that a scale's `estimate:` gives."""

from collections.abc import Iterable, Sequence
from typing import Any

from lib import config
from lib.config import Scale
from lib.config.estimates import in_words, network_seconds
from lib.engine import graph
from lib.engine.graph import Node

__all__ = ["chain", "estimate", "evaluation_seconds", "in_words", "network_seconds", "node_seconds"]


def estimate(scale: str, cores: int = 1, only: Sequence[str] = ()) -> dict[str, Any]:
    """What a run from nothing would cost: training, and evaluation where the scale says what it takes.

    Args:
        scale: smoke, cpu, gpu or paper.
        cores: jobs side by side, from 1.
        only: items or notebooks; none for all.
    Returns: networks, epochs (of all networks together), seconds (the work shared by the cores, and at least the
        longest chain of families), megabytes of the networks; None where the scale gives no rate or size.
    """
    preset = config.load(scale)
    every = graph.nodes(preset, graph.select(only))
    costs = [node_seconds(preset, node) for node in every]
    total: float | None = None
    if None not in costs:
        work = sum(cost for cost in costs if cost is not None)
        work += sum(evaluation_seconds(preset, node) for node in every)
        total = max([work / max(cores, 1), *(chain(preset, every, node) for node in every)])
    count = sum(len(node.networks) for node in every)
    size = preset.estimate.get("network_mb")
    return {
        "networks": count,
        "epochs": sum(node.epochs for node in every),
        "seconds": total,
        "megabytes": None if size is None else size * count,
    }


def node_seconds(scale: Scale, node: Node) -> float | None:
    """Seconds to train a node's networks on one core (or one GPU); None where the scale gives no rate for one."""
    costs = [network_seconds(scale, name) for name in node.networks]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def evaluation_seconds(scale: Scale, node: Node) -> float:
    """Seconds to evaluate a node's networks, by family in `estimate: evaluation_seconds`; 0 where it does not say."""
    return scale.estimate.get("evaluation_seconds", {}).get(node.family, 0.0)


def chain(scale: Scale, every: Iterable[Node], node: Node) -> float:
    """Seconds from a node's start to the end of what waits for it: its evaluation, or families that start from it.

    A node without a rate counts as a second.
    """
    every = list(every)
    children = [other for other in every if other.seed == node.seed and node.family in other.after]
    waiting = [evaluation_seconds(scale, node), *(chain(scale, every, child) for child in children)]
    return (node_seconds(scale, node) or 1.0) + max(waiting)
