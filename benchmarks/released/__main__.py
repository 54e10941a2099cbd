"""The authors' released code beside ours, step by step: what agrees, what differs, and why.

    python -m benchmarks.released --code DIR [--only lcs scratch lancet nnslicer] [--markdown]

DIR holds the user's clones, one folder each: NNSlicer, dynamic-pruning, pruning-from-scratch, AI-Lancet; nothing of
them comes with this package. The command EXECUTES functions and statements out of these clones, on small networks with
fixed seeds, on the CPU: look at them before. Both sides get the same weights, inputs and noise. A folder that is
missing, or a step that needs what is not here, is told in its row. `.cuda()` is made to leave tensors where they are
while their code runs; nothing else of it is changed. The last line is JSON with the counts.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from benchmarks.released import lancet, lcs, scratch
from benchmarks.released.loading import CannotRun, Source
from benchmarks.released.rows import RESULTS, Outcome, Row, Steps

NNSLICER = Steps()


@NNSLICER.agrees("all steps")
def _(_source: Source) -> Outcome:
    raise CannotRun("the code is written for TensorFlow 1, which no Python that this package runs on can have")


# Name -> folder of the clone, the commit that we compared with, what the paper is called, and its steps.
PAPERS: dict[str, tuple[str, str, str, Steps]] = {
    "nnslicer": ("NNSlicer", "", "NNSlicer", NNSLICER),
    "lcs": ("dynamic-pruning", "54a53145", "Layerwise channel selection", lcs.STEPS),
    "scratch": ("pruning-from-scratch", "3102332b", "Pruning from scratch", scratch.STEPS),
    "lancet": ("AI-Lancet", "549db2f3", "AI-Lancet", lancet.STEPS),
}


def markdown(title: str, rows: list[Row]) -> str:
    """A paper's rows as a table in Markdown."""
    lines = [f"### {title}", "", "| step | result | how much | why | what the paper states |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (row.step, row.result, row.amount, row.reason, row.stated)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def plain(title: str, rows: list[Row]) -> str:
    """A paper's rows as lines for a terminal."""
    lines = [title, "-" * len(title)]
    for row in rows:
        lines.append(f"{row.result:>16}  {row.step}: {row.amount}")
        lines += [f"{'':>18}why: {row.reason}"] if row.reason else []
        lines += [f"{'':>18}the paper: {row.stated}"] if row.stated else []
    return "\n".join([*lines, ""])


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.released", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, required=True, help="folder of the clones; what is in them is executed")
    parser.add_argument("--only", nargs="+", choices=list(PAPERS), default=list(PAPERS), help="papers to compare")
    parser.add_argument("--markdown", action="store_true", help="tables as docs/released_code.md has them")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order each time
    counts: Counter[str] = Counter()
    for name in chosen.only:
        folder, commit, paper, steps = PAPERS[name]
        rows = steps.rows(chosen.code / folder)
        counts.update(row.result for row in rows)
        title = f"{paper} ({folder}{f', compared at {commit}' if commit else ''})"
        print((markdown if chosen.markdown else plain)(title, rows))
    if not chosen.markdown:
        print(json.dumps({"benchmark": "released", **{word: counts[word] for word in RESULTS}}))


if __name__ == "__main__":
    main()
