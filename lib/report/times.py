"""What the graph's jobs took, and the chain of them that no number of cores makes shorter."""

import csv
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from lib import config, engine


def benchmarks(scale: str) -> list[dict[str, Any]]:
    """Run time and memory of the graph's jobs, from results/<scale>/benchmarks/*.tsv as Snakemake writes them.

    Returns: {node, seconds, peak_mb (None where not measured)}, the longest first.
    """
    rows = []
    for path in sorted((config.results_dir(scale) / "benchmarks").glob("**/*.tsv")):
        try:
            with open(path, encoding="utf-8", newline="") as handle:
                runs = list(csv.DictReader(handle, delimiter="\t"))
            seconds = max(float(run["s"]) for run in runs)
        except (OSError, KeyError, TypeError, ValueError):
            continue
        peaks = [peak for run in runs if (peak := _number(run.get("max_rss"))) is not None]
        rows.append({"node": path.stem, "seconds": seconds, "peak_mb": max(peaks) if peaks else None})
    return sorted(rows, key=lambda row: -row["seconds"])


def waits(scale: str) -> dict[str, list[str]]:
    """The graph as the Snakefile has it: job -> jobs that must be done before, by the names of their benchmarks."""
    preset, nodes = config.load(scale), engine.nodes(config.load(scale))
    steps, items, made = engine.steps(preset), config.items(), engine.notebooks()

    def trained(families: Any, seed: int) -> list[str]:
        found = [[node for node in nodes if node.family == family] for family in families]
        return [_train(next((n for n in group if n.seed == seed), group[0])) for group in found if group]

    graph = {
        _train(node): [_train(n) for n in nodes if n.family in node.after and n.seed == node.seed] for node in nodes
    }
    for node in nodes:
        for study in filter(engine.evaluated, engine.studies(preset, node.family)):
            graph[_evaluate(study, node)] = [_train(node)]
    for network, seed, attacks in engine.attacks(steps):
        graph[_attack(network, seed, attacks)] = trained([preset.networks[network].family], seed)
    for step in steps:
        before = [_step(step.study, name, step.seed) for name in step.after]
        sets = [_attack(network, step.seed, attacks) for network, attacks in step.attacks]
        graph[_step(step.study, step.name, step.seed)] = [*trained(step.families, step.seed), *before, *sets]
    for notebook, own in made.items():
        families, used = engine.families(preset, notebook), {items[item].study for item in own}
        if not own:
            records = [f"notebook-{other}" for other, some in made.items() if some]
            graph[f"notebook-{notebook}"] = trained(families, 0) if families else records
            continue
        shown = [node for node in nodes if node.family in families]
        ahead = {name for item in own for name in items[item].steps}
        graph[f"notebook-{notebook}"] = [
            _evaluate(study, node) if engine.evaluated(study) else _train(node) for node in shown for study in used
        ] + [_step(step.study, step.name, step.seed) for step in steps if step.study in used and step.name in ahead]
    return graph


def critical_path(scale: str) -> list[dict[str, Any]]:
    """The chain of jobs, each waiting for the one before, that took longest: what more cores cannot shorten.

    Returns: rows of `benchmarks` in the order of running; jobs that were not measured count as no time. Empty where
        nothing was measured.
    """
    measured = {row["node"]: row for row in benchmarks(scale)}
    return [measured[name] for name in longest_chain(waits(scale), measured)] if measured else []


def longest_chain(graph: Mapping[str, list[str]], measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The measured jobs of the longest chain.

    Args:
        graph: job -> jobs before it; no circles.
        measured: job -> {"seconds"}.
    """

    @cache
    def end(name: str) -> tuple[float, tuple[str, ...]]:
        before = max((end(other) for other in graph.get(name, ())), default=(0.0, ()))
        own = (name,) if name in measured else ()
        return before[0] + (measured[name]["seconds"] if own else 0.0), before[1] + own

    return list(max((end(name) for name in graph), default=(0.0, ()))[1])


def duration(seconds: float) -> str:
    """Seconds in words, as "2 h 05 min", "3 min 20 s", "41 s" or "0.8 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def _train(node: engine.Node) -> str:
    return f"train-{node.family}-seed{node.seed}"


def _evaluate(study: str, node: engine.Node) -> str:
    return f"evaluate-{study}-{node.family}-seed{node.seed}"


def _step(study: str, name: str, seed: int) -> str:
    return f"step-{study}-{name}-seed{seed}"


def _attack(network: str, seed: int, attacks: str) -> str:
    first, *more = attacks.split()
    return f"attack-{network}-seed{seed}-{f'{first}-and-{len(more)}-more' if more else first}"


def _number(text: Any) -> float | None:
    """A number as Snakemake writes it; None for "-" and NaN."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
