"""A disk that takes no more, in a child whose files may not grow: one clear error, the old file kept, nothing torn.

A whole run on a small disk of its own is in test_whole_runs.py.
"""

import os
import subprocess
import sys

import pytest

from lib import config

WRITERS = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "tests")
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from safetensors.torch import save_file
from training_tools import images, net, recipe
from lib import cache, store, tensors, training
folder = Path(sys.argv[1])
many, figure, made = {"a": torch.zeros(50_000)}, plt.subplots(figsize=(20, 20))[0], []
model, settings = net(width=200), recipe(epochs=1)

def kept():
    made.append(1)
    return ["x" * 50_000]

def attempt(name, write):
    try:
        write(folder / name)
        print(f"{name}: written")
    except OSError as error:
        print(f"{name}: {error}")

def every():
    attempt("bytes", lambda path: store.write_atomic(path, b"x" * 50_000))
    attempt("tensors", lambda path: tensors.write(path, many))
    attempt("library", lambda path: store.write_atomic(path, lambda part: save_file(many, part)))
    attempt("figure", lambda path: store.write_atomic(path, lambda part: figure.savefig(part, format="png")))
    attempt("checkpoint", lambda path: training.fit(model, images(), settings, checkpoint=path))
    attempt("kept", lambda path: cache.get("kept", {"k": 1}, kept, folder=folder))

limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
every()
print(sorted(path.name for path in folder.rglob("*.*") if path.suffix != ".lock"), (folder / "bytes").read_text())
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
every()
print(len(made))
"""


def test_it_is_said_which_file_and_why_and_later_all_is_written(tmp_path):
    """torch.save, for one, says "unexpected pos 576 vs 534" of a full disk."""
    (tmp_path / "bytes").write_text("old")
    words = [sys.executable, "-c", WRITERS, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=config.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ["bytes", "tensors", "library", "figure", "checkpoint"]
    lines = done.stdout.splitlines()
    assert lines[:5] == [f"{name}: [Errno 27] could not write {tmp_path}/{name}: File too large" for name in names]
    assert lines[5].startswith(f"kept: [Errno 27] could not write {tmp_path}/kept/")
    assert lines[6] == "[] old", "half a file was left, or the old one touched"
    assert lines[7:] == [*(f"{name}: written" for name in (*names, "kept")), "2"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path):
    """As a user who reads somebody else's checkout has it."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o500)
    _refused(tmp_path, "Permission denied")


def test_a_cache_that_is_a_file_is_named_in_one_line(tmp_path):
    (tmp_path / "cache").write_text("")
    _refused(tmp_path, "Not a directory")


def _refused(folder, reason):
    places = {"NEURONS_CACHE": str(folder / "cache"), "NEURONS_RESULTS": str(folder / "results")}
    words = [sys.executable, "-m", "lib.engine", "run", "--only", "04_robustness_spectra"]
    done = subprocess.run(words, cwd=config.ROOT, env={**os.environ, **places}, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr and str(folder / "cache") in done.stderr
