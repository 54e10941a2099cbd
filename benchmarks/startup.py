"""How long a reader waits: `import lib` against `import torch`, the first figure of `smoke`, and the explorer's tabs.

    python -m benchmarks.startup [--repeats 5] [--figure ITEM] [--cores 2] [--explorer]

Each import is timed inside a fresh interpreter, the two in turn; the median counts. `equal` says that `import lib` did
not load torch. The first figure: what `./run_all.sh smoke --only ITEM` does once its environment is there, with
an empty cache and no results, until the first figure of that notebook is on disk; the run is ended then. The explorer:
seconds from opening its panel at `smoke` to the first answer of each tab, one after another, its networks there before.

Not reached: all of `smoke` in six minutes. With 31 notebooks it took 8.0 minutes and 894 core-seconds on two
cores of a Xeon with AMX: 40 steps took 45 % of it, the notebooks 30, 23 trainings 22. Each of the 96 processes imported
for 2 seconds, a fifth of all. Since then notebooks make what they show, without steps ahead of them, so that 56
processes are left with one notebook more; that machine has not measured it again.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib import config

PROGRAM = """
import sys, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began, "torch" in sys.modules)
"""
EXPLORER = """
import json, time
from lib import compute, config, explore, permission, plots, zoo
from lib.experiments import lcs_decisions
from lib.explore import panel
plots.style()
compute.set_threads(config.load("smoke").compute.threads)
with permission.asked():
    target = explore.load("smoke")
    zoo.get(lcs_decisions.Settings.of("smoke").networks[0], "smoke", 0)
    seconds, began = {}, time.perf_counter()
    shown = panel.Explorer(explore.attack(target, target.position(0), "fgsm_8"))
    for place, tab in enumerate(shown.tabs.children):
        if place:
            began = time.perf_counter()
        shown.tabs.selected_index = place
        shown.refresh()
        assert "Done in" in tab.status.value, tab.page.value
        seconds[shown.tabs.titles[place]] = round(time.perf_counter() - began, 2)
print(json.dumps(seconds))
"""
TARGET, FIGURE_TARGET, EXPLORER_TARGET = 0.3, 60.0, 10.0  # seconds


def fresh_import(module: str) -> tuple[float, bool]:
    """Seconds that an import takes in a fresh interpreter, and whether torch is loaded then."""
    words = [sys.executable, "-c", PROGRAM.format(module=module)]
    done = subprocess.run(words, cwd=config.ROOT, capture_output=True, text=True, check=True)
    seconds, torch_loaded = done.stdout.split()
    return float(seconds), torch_loaded == "True"


def first_figure(item: str, cores: int, limit: float = 1800.0) -> float:
    """Seconds until the first figure of an item's notebook is there.

    Raises: RuntimeError with the run's last words where it ends, or `limit` seconds pass, without one.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = {"NEURONS_CACHE": f"{folder}/cache", "NEURONS_RESULTS": f"{folder}/results"}
        words = [sys.executable, "-m", "lib.engine", "run", "smoke", "--cores", str(cores), "--only", item]
        with open(Path(folder) / "said", "w+") as said:
            began = time.perf_counter()
            run = subprocess.Popen(words, cwd=config.ROOT, env={**os.environ, **places}, stdout=said, stderr=said)
            try:
                while not list(Path(folder).glob("results/smoke/figures/*.png")):
                    if run.poll() is not None or time.perf_counter() - began > limit:
                        said.seek(0)
                        raise RuntimeError(f"no figure of {item} came:\n{said.read()[-2000:]}")
                    time.sleep(0.05)
                return time.perf_counter() - began
            finally:
                if run.poll() is None:
                    run.kill()  # its jobs end when it does
                run.wait()


def explorer() -> dict[str, float]:
    """Seconds until each tab of the explorer answers, in a fresh process; missing networks are trained first.

    Raises: RuntimeError with the process's last words where a tab has no answer.
    """
    done = subprocess.run(
        [sys.executable, "-c", EXPLORER], cwd=config.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the explorer has no answer:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--figure", metavar="ITEM", help="also time the first figure of this item's notebook")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--explorer", action="store_true", help="also time the explorer's tabs")
    chosen = parser.parse_args()
    runs: dict[str, list[tuple[float, bool]]] = {"lib": [], "torch": []}
    for _ in range(chosen.repeats):
        for module, found in runs.items():
            found.append(fresh_import(module))
    seconds, peer = (statistics.median(run[0] for run in found) for found in runs.values())
    loaded = any(run[1] for run in runs["lib"])
    print(f"import lib: {seconds:.3f} s (target below {TARGET} s), torch loaded: {loaded}; import torch: {peer:.2f} s")
    report = {
        "benchmark": "startup",
        "peer": "import torch, the least that a package which loads it at once would take",
        "ratio": peer / seconds,
        "seconds": seconds,
        "peer_seconds": peer,
        "target_seconds": TARGET,
        "torch_imported": loaded,
        "repeats": chosen.repeats,
        "figure_seconds": None,
        "explorer_seconds": None,
        "equal": not loaded,
    }
    if chosen.figure:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run it starts ends with this one
        report |= {"figure": chosen.figure, "cores": chosen.cores, "figure_target_seconds": FIGURE_TARGET}
        report["figure_seconds"] = first_figure(chosen.figure, chosen.cores)
        print(f"first figure ({chosen.figure}): {report['figure_seconds']:.0f} s (target below {FIGURE_TARGET:.0f} s)")
    if chosen.explorer:
        report |= {"explorer_seconds": explorer(), "explorer_target_seconds": EXPLORER_TARGET}
        told = ", ".join(f"{title} {seconds:.1f} s" for title, seconds in report["explorer_seconds"].items())
        print(f"explorer, first answer of each tab: {told} (target below {EXPLORER_TARGET:.0f} s)")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
