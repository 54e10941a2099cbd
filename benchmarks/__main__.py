"""All benchmarks one after another, and the page of speed made of what they print.

    python -m benchmarks                    # runs them, writes docs/speed.json and docs/speed.md
    python -m benchmarks --only slicing     # these anew, the others as they are
    python -m benchmarks --page             # the page alone, from docs/speed.json

Each runs in a process of its own; one whose two sides differ ends the run. Run it on an idle machine.
"""

import argparse
import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from lib import store

DOCS = Path(__file__).parent.parent / "docs"
RUNS = {
    "slicing": ["--plain", "2", "--threads", "2"],
    "slicing, one thread": ["--plain", "1", "--threads", "1"],
    "slicing, one input": ["--plain", "1", "--inputs", "1"],
    "slicing, 128 inputs": ["--plain", "1", "--inputs", "128"],
    "slicing, ResNet18": ["--plain", "1", "--network", "resnet18"],
    "slicing, EfficientNet-Lite0": [
        "--plain",
        "1",
        "--inputs",
        "4",
        "--profiled",
        "40",
        "--network",
        "efficientnet-lite0",
    ],
    "locate": ["--pairs", "24"],
    "fgsm_sweep": [],
    "training": [],
    "pruned_inference": [],
    "dynamic_inference": [],
    "startup": ["--figure", "robustness_fig7", "--explorer"],
}


def measure(name: str) -> dict[str, Any]:
    """The last line that a benchmark prints, and what it was called with.

    Raises: SystemExit where it failed, or its two sides differ.
    """
    words = ["-m", f"benchmarks.{name.split(',')[0]}", *RUNS[name]]
    print(f"python {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(*done.stdout.splitlines()[:-1], sep="\n", flush=True)
    return {"call": " ".join(words), **json.loads(done.stdout.splitlines()[-1])}


def machine() -> str:
    """Processor and libraries that the times hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = torch.multiprocessing.cpu_count()
    return f"{model}, {cores} cores; Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"


def page(kept: dict[str, Any]) -> str:
    """The page of speed."""
    rows = [
        "| benchmark | against | ours | peer | ratio | floor | ours / floor |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, report in kept["runs"].items():
        floor, memory = report.get("floor_seconds"), report.get("peak_mb")
        cells = [
            f"{name}: `python {report['call']}`" + (f", {memory:,} MB at most" if memory else ""),
            report["peer"],
            _time(report["seconds"]),
            _time(report["peer_seconds"]),
            f"{report['ratio']:.3g}",
            f"{_time(floor)}: {report['floor']}" if floor else "",
            f"{report['seconds'] / floor:.3g}" if floor else "",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            "# Speed",
            "",
            "Made by `python -m benchmarks`; each line is one run in which both sides gave the same result. Times hold "
            f"for {kept['machine']}. They are of the unit that a benchmark's own text names (an input sliced, a sweep, "
            "an epoch); the ratio is peer / ours.",
            "",
            *rows,
            "",
            *_waits(kept["runs"].get("startup", {})),
            *_tried(kept["runs"]),
        ]
    )


def _tried(names: Iterable[str]) -> list[str]:
    """What the benchmarks' own texts say of what was tried, and of what was not reached, as lines of the page."""
    lines = []
    for name in dict.fromkeys(name.split(",")[0] for name in names):
        text = importlib.import_module(f"benchmarks.{name}").__doc__ or ""
        told = [" ".join(part.split()) for part in text.split("\n\n") if part.startswith(("Tried", "Not reached"))]
        lines += [line for part in told for line in (f"**{name}.** {part}", "")]
    return ["## What was tried, and what was not reached", "", *lines] if lines else []


def _waits(report: dict[str, Any]) -> list[str]:
    """What `startup` measured beside its ratio, as lines of the page."""
    lines = []
    if report.get("figure_seconds"):
        lines.append(
            f"After set-up, `./run_all.sh smoke --only {report['figure']}` has its figure on disk after "
            f"{_time(report['figure_seconds'])}, from an empty cache and with {report['cores']} cores."
        )
    if report.get("explorer_seconds"):
        tabs = ", ".join(f"{title} {_time(seconds)}" for title, seconds in report["explorer_seconds"].items())
        lines.append(f"The explorer's first answer in each tab, its networks there already: {tabs}.")
    return [line for each in lines for line in (each, "")]


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def main() -> None:
    """Run, keep, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    chosen = parser.parse_args()
    file = DOCS / "speed.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"machine": machine(), "runs": {}}
    if not chosen.page:
        if kept["machine"] != machine():
            kept = {"machine": machine(), "runs": {}}  # times of two machines are not set side by side
        for name in chosen.only or RUNS:
            kept["runs"][name] = measure(name)
            store.write_atomic(file, (json.dumps(kept, indent=1) + "\n").encode())
    kept["runs"] = {key: kept["runs"][key] for key in RUNS if key in kept["runs"]}
    store.write_atomic(file, (json.dumps(kept, indent=1) + "\n").encode())
    store.write_atomic(DOCS / "speed.md", page(kept).encode())


if __name__ == "__main__":
    main()
