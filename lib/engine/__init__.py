"""The graph that `run_all.sh` runs: its nodes and their cost, one job, one run under a lock, the summary after it;
time boxes, which make what can be finished in some minutes, and the merge of what they made.

Snakemake decides what is out of date and schedules it (see Snakefile); this package tells it what exists.
"""

from lib.engine.cost import chain, estimate
from lib.engine.graph import Node, ancestry, evaluated, families, nodes, notebooks, recipes_hash, seeds, select, studies
from lib.engine.sources import sources
from lib.engine.stages import StepNode, attacks, steps

__all__ = [
    "Node",
    "StepNode",
    "ancestry",
    "attacks",
    "chain",
    "estimate",
    "evaluated",
    "families",
    "nodes",
    "notebooks",
    "recipes_hash",
    "seeds",
    "select",
    "sources",
    "steps",
    "studies",
]
