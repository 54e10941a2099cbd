"""A checkout of this package with one small study of its own: real training, attacks, step, notebook, record, report.

Unlike the stand-ins of `workshop.Workshop`, every job does real work, so that what a killed or starved run leaves
behind is what a reader's run would leave.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from safetensors import safe_open
from workshop import notebook

from lib import checksums

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = ["Snakefile", "run_all.sh", "profiles", "requirements.txt", "environment.yml", "lib", "pyproject.toml"]
COPIED += ["CITATION.cff"]

BASE = {"arch": "digits-cnn", "arch_args": {"width": 2}, "data": "mnist5k", "train_limit": 400, "batch": 20}
PRUNING = {"use": "lib.robustness.magnitude_pruning.GradualPruning", "final_sparsity": 0.5, "begin": 4, "end": 8}
SMOKE: dict[str, Any] = {
    "compute": {"device": "cpu", "threads": 1, "training_precision": "float32", "channels_last": False},
    "networks": {
        "dense": {**BASE, "epochs": 12, "learning_rate": 0.05, "family": "digits"},
        "pruned": {"like": "dense", "start": {"network": "dense", "epoch": 4}, "hooks": [{**PRUNING, "every": 1}]},
    },
    "attacks": {"suite": ["fgsm_8 gaussian_blur"], "images": 20, "chunk": 5},
    "study": {"survival": {"data": "mnist5k", "seeds": [0]}},
}
ITEM = {
    "title": "Accuracy on clean and attacked digits",
    "paper": "none",
    "source": "not in the source",
    "notebook": "01_survival",
    "claims": ["attacks-harm"],
    "families": ["digits"],
    "steps": ["attacked"],
}
STEPS = {"survival": {"attacked": {"run": "lib.survival:make", "families": ["digits"], "attacks": "dense"}}}
RULE = {
    "left": {"input": "fgsm_8"},
    "right": {"input": "clean"},
    "expect": {"lower": 0.0},
    "sample": "network",
    "repetitions": 2,
    "images": 10,
}
CLAIM = {
    "statement": "An attack lowers accuracy.",
    "paper": "none",
    "source": "none",
    "items": ["survival_table"],
    "rule": RULE,
}
STUDY = '''"""The small study: two networks on clean and attacked images."""

import pandas as pd

from lib import attacks, data, evaluations, training, zoo

NETWORKS = ["dense", "pruned"]


def table(network, scale, seed):
    def make():
        images = data.load("mnist5k", "test").stratified(100, seed=0)
        rows = [("clean", training.accuracy(zoo.get(network, scale, seed), images), len(images))]
        for name in ("fgsm_8", "gaussian_blur"):
            made = attacks.adversarials("dense", scale, seed, name=name)
            right = zoo.get(network, scale, seed)(made.images).argmax(1) == made.labels
            rows.append((name, right.float().mean().item(), len(made)))
        return pd.DataFrame(rows, columns=["input", "accuracy", "n"])

    return evaluations.kept("survival", network, scale, seed, {"images": 100}, make)


def make(scale, seed):
    for network in NETWORKS:
        table(network, scale, seed)
'''
SHOW = """
from lib import compute, config, plots, record, survival, zoo
compute.set_threads(config.load(scale).compute.threads)
numbers, seconds = [], 0.0
for network in survival.NETWORKS:
    for row in survival.table(network, scale, 0).to_dict("records"):
        where = {"network": network, "input": row["input"]}
        share = (where, {0: row["accuracy"]}, "fraction of test images", int(row["n"]))
        numbers.append(record.number("accuracy", *share, interval="images"))
    card = zoo.card(network, scale, 0)
    seconds += card["seconds"]
    for epoch in card["history"]:
        where = {"network": network, "input": f"epoch {epoch['epoch']:.0f}"}
        numbers.append(record.number("loss", where, {0: epoch["loss"]}, "nats", 400))
figure, axes = plots.panels(1)
axes[0].plot([number["value"] for number in numbers])
record.write("survival_table", scale, numbers, [], figure, None, card["data"], seconds)
"""


class Small:
    """A checkout in `root`, its cache and results beside its files or where told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache, self.results = root / "cache", root / "results"
        root.mkdir(parents=True)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name)  # with __pycache__, as its times hold: the jobs start sooner
            elif (ROOT / name).exists():
                shutil.copy2(ROOT / name, root / name)
        (root / "lib/survival.py").write_text(STUDY)
        (root / "config").mkdir()
        for name, content in {
            "smoke": SMOKE,
            "paper": SMOKE,  # with which a record compares its recipes
            "items": {"survival_table": ITEM},
            "steps": STEPS,
            "claims": {"attacks-harm": CLAIM},
        }.items():
            (root / f"config/{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        (root / "notebooks").mkdir()
        notebook(root / "notebooks/01_survival.ipynb", SHOW)

    @property
    def call(self) -> list[str]:
        """The words of a run."""
        return [sys.executable, "-m", "lib.engine", "run", "--cores", "2"]

    def environment(self, **more: str) -> dict[str, str]:
        """A run's environment: this checkout's own places, no GPU."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NEURONS_")}
        kept.pop("DATA_ROOT", None)
        places = {"NEURONS_CACHE": str(self.cache), "NEURONS_RESULTS": str(self.results)}
        return {**kept, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(self.root), **places, **more}

    def start(self, **more: Any) -> subprocess.Popen:
        """Begin a run, in a process group of its own."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **more}
        return subprocess.Popen(self.call, cwd=self.root, env=self.environment(), start_new_session=True, **quiet)

    def run(self, **more: Any) -> subprocess.CompletedProcess:
        """A run to its end."""
        words = {"capture_output": True, "text": True, "timeout": 3600, **more}
        return subprocess.run(self.call, cwd=self.root, env=self.environment(), **words)

    def clear(self) -> None:
        """Take away all that runs made, but matplotlib's list of fonts and the like."""
        for folder in (self.cache / "smoke", self.results, self.root / ".snakemake"):
            shutil.rmtree(folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """Processes of this checkout's runs, kernels included, that are still there."""
        mark = f"NEURONS_CACHE={self.cache}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:  # it has ended, or is another user's
                    continue
        return found

    def wait_until_all_ended(self, seconds: float = 30) -> None:
        """Raises: AssertionError where a process outlives its run."""
        end = time.monotonic() + seconds
        while self.processes():
            assert time.monotonic() < end, f"processes {self.processes()} outlive their run by {seconds} s"
            time.sleep(0.1)

    def content(self) -> dict[str, str]:
        """File -> digest of all that must not depend on when and in how many sittings it was made."""
        found = {}
        for path in sorted(self.results.rglob("*.*")) + sorted(self.cache.glob("smoke/*/*/*.safetensors")):
            name = path.relative_to(self.root).as_posix()
            kind = path.parent.name
            if kind in ("figures", "tables"):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif kind == "numbers":
                found[name] = json.dumps(json.loads(path.read_text())["numbers"])
            elif path.suffix == ".safetensors":
                found[name] = _tensors(path)
            elif "evaluations" in path.parts and path.suffix == ".json":
                found[name] = json.loads(path.read_text())["checksum"]
        return found

    def torn(self, amid: bool = False) -> list[str]:
        """Files that are not whole, and what a writer that was stopped left behind.

        Args:
            amid: just after a kill, where what is under way may be half-written: temporary files, the executed
                notebook, the engine's list of jobs. Whatever else bears its name must be whole even then.
        """
        found = []
        for path in [*self.results.rglob("*"), *(self.cache / "smoke").rglob("*")]:
            try:
                if path.is_dir():
                    continue
                if amid and (".tmp" in path.name or path.suffix in (".ipynb", ".jsonl")):
                    continue
                if ".tmp" in path.name:
                    raise ValueError("left behind")
                if path.suffix in (".json", ".ipynb"):
                    json.loads(path.read_text())
                elif path.suffix == ".jsonl":
                    [json.loads(line) for line in path.read_text().splitlines()]
                elif path.suffix == ".safetensors":
                    _tensors(path)
                elif path.suffix == ".png":
                    Image.open(path).load()
                elif path.suffix in (".svg", ".html") and not path.read_text().rstrip().endswith((">",)):
                    raise ValueError("no end")
            except Exception as error:  # whatever a reader raises, the file is not whole
                found.append(f"{path.relative_to(self.root)}: {error}")
        if not amid:
            found += [f"{name}: {what}" for name, what in checksums.compare(self.results / "smoke").items()]
        return found


def _tensors(path: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(path, "pt") as file:
        for name in sorted(file.keys()):
            digest.update(name.encode() + file.get_tensor(name).numpy().tobytes())
    return digest.hexdigest()
