"""A small results folder, whole: two records with figures, verdicts, a network, a kept table, an executed notebook."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml
from matplotlib.figure import Figure
from samples import accuracies, falling, write

from lib import cache, checksums, claims, config, record, store

ITEM, OTHER, NOTEBOOK = "robustness_fig7", "nnslicer_overhead", "03_robustness_temperature"


def figure() -> Figure:
    drawn = Figure(figsize=(2, 1), dpi=40)
    drawn.subplots().plot([0, 1], [1, 0])
    return drawn


def temperatures(clean: float = 0.7) -> list:
    return accuracies([{"temperature": t} for t in (1, 20)], lambda _, step: falling(clean, 0.5, step))


def seconds(value: float = 0.25) -> list:
    return [record.number("seconds", {"phase": "slice"}, {0: value}, "seconds an input", 10)]


def make(place: Path, patch: pytest.MonkeyPatch) -> None:
    """Fill place/results/smoke as a run does, with the configuration in place/config, its claims but a few."""
    shutil.copytree(config.ROOT / "config", place / "config")
    edit(place / "config" / "smoke.yaml", "seeds: [0]", "seeds: [0, 1, 2]")  # of the first study, robustness
    known = config.read_yaml(place / "config" / "claims.yaml")
    kept = {name: claim for name, claim in known.items() if ITEM in claim["items"] or OTHER in claim["items"]}
    (place / "config" / "claims.yaml").write_text(yaml.safe_dump(kept))
    patch.setenv("NEURONS_CONFIG", str(place / "config"))
    patch.setenv("NEURONS_RESULTS", str(place / "results"))
    folder = place / "results" / "smoke"
    write(ITEM, temperatures(), figure=figure(), reduced=["5 epochs instead of 50"])
    write(OTHER, seconds())
    value = {"columns": ["a"], "rows": [[1.5]]}
    key = {"weights": "sha256:1"}
    cache.get("robustness-sweep", key, lambda: (value, {"seconds": 1}), cache.MADE, folder=folder / "evaluations")
    (folder / "networks").mkdir()
    (folder / "networks" / "net-seed0.safetensors").write_bytes(b"weights")
    card = {"name": "net", "weights": store.bytes_sha256(b"weights")}
    (folder / "networks" / "net-seed0.json").write_text(json.dumps(card))
    executed(folder)
    claims.judge_all("smoke")
    checksums.complete(folder)


def copied(whole: Path, place: Path, patch: pytest.MonkeyPatch) -> Path:
    """A copy of what `make` made, for one test to spoil. Returns: its results folder of smoke."""
    shutil.copytree(whole, place, dirs_exist_ok=True)
    patch.setenv("NEURONS_CONFIG", str(place / "config"))
    patch.setenv("NEURONS_RESULTS", str(place / "results"))
    return place / "results" / "smoke"


def executed(folder: Path, *more: nbformat.NotebookNode) -> Path:
    """The notebook of ITEM as papermill leaves it, its cells not run."""
    made = nbformat.read(config.ROOT / "notebooks" / f"{NOTEBOOK}.ipynb", 4)
    given = nbformat.v4.new_code_cell('scale = "smoke"', metadata={"tags": ["injected-parameters"]})
    made.cells.insert(1, given)
    made.cells.extend(more)
    times = {"start_time": "2026-11-22T04:38:31.353853+00:00", "end_time": "2026-11-22T04:40:03.128829+00:00"}
    made.metadata["papermill"] = {"parameters": {"scale": "smoke", "seeds": 0}, "exception": None, **times}
    path = folder / "notebooks" / f"{NOTEBOOK}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(made, path)
    return path


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text in a file, as a hand would; it must be there."""
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))
