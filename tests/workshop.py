"""A small checkout to try the engine in: its real files, and stand-ins for training, steps, attacks and notebooks."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
REAL = ["run_all.sh", "Snakefile", "profiles", "requirements.txt", "environment.yml", ".gitattributes"]
REAL += [
    "lib/__init__.py",
    "lib/config",
    "lib/cache.py",
    "lib/cells.py",
    "lib/store.py",
    "lib/tensors.py",
    "lib/checksums.py",
    "lib/progress.py",
    "lib/data",
    "lib/engine",
]

ZOO = """
import argparse, json, time
from lib import cache, config
from lib.robustness import pruning
def card(name, scale, seed):
    cache.about_to_make(name)
def kept(name, scale, seed):
    return False
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    for name in ("--scale", "--family", "--seed"):
        parser.add_argument(name)
    parser.add_argument("--retrain", action="store_true")
    parser.add_argument("--cards", action="store_true")
    asked = parser.parse_args()
    with open(config.cache_dir(asked.scale) / "trained.txt", "a") as lines:
        lines.write(f"{asked.family} {asked.seed} {asked.retrain}\\n")
    time.sleep(config.load(asked.scale).study["robustness"].get("sleep", 0))
    print(json.dumps({"family": asked.family}))
if __name__ == "__main__":
    main()
"""
AHEAD = """
import argparse
import sys
from lib import cache, config
def carry_out(run, scale, seed):
    cache.about_to_make(run)
def main():
    parser = argparse.ArgumentParser()
    for name in ("--scale", "--seed", "--run", "--network"):
        parser.add_argument(name)
    parser.add_argument("--attack", nargs="*")
    parser.add_argument("--kept", action="store_true")
    asked = parser.parse_args()
    if asked.kept:
        return 0 if f"{asked.run} {asked.seed}" in (config.cache_dir(asked.scale) / "kept.txt").read_text() else 3
    with open(config.cache_dir(asked.scale) / "ahead.txt", "a") as lines:
        what = asked.run.partition(":")[2] if asked.run else f"{asked.network}-{'+'.join(asked.attack)}"
        lines.write(f"{what} {asked.seed}\\n")
    print("done")
if __name__ == "__main__":
    sys.exit(main())
"""
REPORT = """
import argparse
from lib import config
parser = argparse.ArgumentParser()
parser.add_argument("--scale")
folder = config.results_dir(parser.parse_args().scale)
records = sorted(path.name for path in (folder / "numbers").glob("*.json"))
(folder / "index.html").write_text(" ".join(records))
"""
RECORD = """
import json
import sys
from lib import config, store
for item in {items!r}:
    path = config.results_dir(scale) / "numbers" / f"{{item}}.json"
    store.write_atomic(path, json.dumps({{"item": item, "python": sys.executable, "quiet": config.quiet()}}))
with open(config.cache_dir(scale) / "shown.txt", "a") as lines:
    lines.write("{name}\\n")
"""
PAPERMILL = """
import json, sys
source, made = sys.argv[-2:]
name, value = sys.argv[sys.argv.index("-p") + 1 :][:2]
with open(source) as file:
    found = json.load(file)
first, *others = ("".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code")
known = {}
for cell in (first, f"{name} = {value!r}", *others):
    exec(cell, known)
with open(made, "w") as file:
    json.dump(found, file)
"""
ITEMS = {
    "robustness_one": ("01_one", ["dense", "pruned"], ["one"]),
    "robustness_two": ("01_one", ["dense"], []),
    "robustness_three": ("02_two", ["other"], ["three"]),
}
STEPS = {
    "one": {"run": "lib.robustness.parts:one", "families": ["dense", "pruned"]},
    "three": {"run": "lib.robustness.parts:three", "families": ["other"]},
}
RECIPE = {"arch": "digits_cnn", "data": "mnist5k", "epochs": 2, "batch": 100}
HOOK = {"use": "lib.robustness.pruning.Gradual"}
SMOKE: dict[str, Any] = {
    "estimate": {"images_per_second": {"digits_cnn": 700}, "network_mb": 3, "hook_cost": {"Gradual": 2}},
    "networks": {
        "dense": {**RECIPE, "family": "dense"},
        "dense-long": {**RECIPE, "epochs": 4, "family": "dense"},
        "pruned": {**RECIPE, "start": {"network": "dense"}, "hooks": [HOOK], "family": "pruned"},
        "other": {**RECIPE, "train_limit": 700, "family": "other"},
    },
    "study": {"robustness": {"seeds": [0, 1]}},
}


def notebook(path: Path, *cells: str) -> None:
    """Write a notebook with a parameters cell and these code cells."""
    first = nbformat.v4.new_code_cell('scale = "smoke"', metadata={"tags": ["parameters"]})
    made = nbformat.v4.new_notebook(cells=[first, *(nbformat.v4.new_code_cell(cell) for cell in cells)])
    for index, cell in enumerate(made.cells):
        cell["id"] = f"cell-{index}"
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)


class Workshop:
    """A checkout in `root` whose environment is this test's own Python."""

    said: subprocess.CompletedProcess  # of the run that a fixture made
    path: str  # PATH with a fake Python first, and that Python's maker and notes
    fake: Callable[..., None]
    notes: Callable[[], list[str]]

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in REAL:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, root / name)
        self.write("lib/robustness/__init__.py", "")
        self.write("lib/robustness/pruning.py", "class Gradual:\n    pass\n")
        self.write("lib/robustness/parts.py", "")
        self.write("lib/evaluations.py", AHEAD)
        self.write("lib/attacks/__init__.py", "")
        self.write("lib/attacks/__main__.py", AHEAD)
        self.write("lib/zoo.py", ZOO)
        self.write("lib/report.py", REPORT)
        self.configure(SMOKE)
        items = {
            name: {
                "title": name,
                "paper": "P",
                "source": "S",
                "notebook": notebook,
                "families": families,
                "steps": steps,
            }
            for name, (notebook, families, steps) in ITEMS.items()
        }
        self.write("config/items.yaml", yaml.safe_dump(items))
        self.write("config/steps.yaml", yaml.safe_dump({"robustness": STEPS}))
        self.write("config/claims.yaml", "{}")
        for name in ("01_one", "02_two", "90_last"):
            made = [item for item, entry in ITEMS.items() if entry[0] == name]
            self.notebook(name, RECORD.format(items=made, name=name))
        self.stamp()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def configure(self, smoke: dict) -> None:
        self.write("config/smoke.yaml", yaml.safe_dump(smoke, sort_keys=False))

    def notebook(self, name: str, *cells: str) -> None:
        (self.root / "notebooks").mkdir(exist_ok=True)
        notebook(self.root / "notebooks" / f"{name}.ipynb", *cells)

    def without_kernels(self) -> None:
        """A stand-in for papermill too: cells run in its own process, which starts in a twentieth of the time."""
        self.write("papermill/__init__.py", "")
        self.write("papermill/__main__.py", PAPERMILL)

    def stamp(self) -> None:
        """An environment that is set up already: this Python under .venv's name."""
        self.write(".venv/bin/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (self.root / ".venv/bin/python").chmod(0o755)
        lock = hashlib.sha256((self.root / "requirements.txt").read_bytes()).hexdigest()
        self.write(".venv/.requirements-hash", lock + "\n")

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("NEURONS_", "CONDA_"))}
        kept.pop("DATA_ROOT", None)
        return {**kept, "CUDA_VISIBLE_DEVICES": "", **more}

    def call(self, *words: str, cwd: Path | None = None, script: Path | None = None, **more: str):
        """Run run_all.sh to its end; its CompletedProcess, output as text."""
        return subprocess.run(
            [str(script or self.root / "run_all.sh"), *words],
            cwd=cwd or self.root,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def lines(self, name: str) -> list[str]:
        """What the stand-ins noted: trained, ahead, shown."""
        path = self.root / "cache" / "smoke" / f"{name}.txt"
        return path.read_text().splitlines() if path.exists() else []

    def forget(self) -> None:
        for name in ("trained", "ahead", "shown"):
            (self.root / "cache" / "smoke" / f"{name}.txt").unlink(missing_ok=True)

    def record(self, item: str) -> dict | None:
        path = self.root / "results" / "smoke" / "numbers" / f"{item}.json"
        return json.loads(path.read_text()) if path.exists() else None
