"""Loops are compiled once: what set-up compiles, no later process compiles again."""

import os
import subprocess
import sys

import pytest

from lib import config

# Slices and locates as the explorer does, on a network of another size; says what numba compiled.
LATER = """
import torch
from numba.core import event
compiled = []
class Counter(event.Listener):
    def on_start(self, found): compiled.append(str(found.data["dispatcher"]))
    def on_end(self, found): pass
event.register("numba:compile", Counter())
from lib import lancet, models, slicing
torch.manual_seed(1)
model = models.build("resnet10-preact", width=4).to(memory_format=torch.channels_last).eval()
images = torch.rand(6, 3, 32, 32)
labels = model(images).argmax(1)
profile = slicing.profile(model, images, labels, num_classes=10)
found = slicing.slice(model, images[:3], profile)
assert len(found) == 3
wrong = (labels + 1) % 10
for count in (1, 6):
    lancet.locate(model, images[:count], images.flip(0)[:count], wrong[:count])
print(len(compiled), *compiled)
"""
TOLD = "compiling loops, once on this machine"


def python(*words: str, cache) -> subprocess.CompletedProcess:
    set_here = {"NUMBA_CACHE_DIR": str(cache), "NEURONS_PROGRESS": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, "PYTHONPATH": str(config.ROOT), **set_here}
    words = (sys.executable, *words)
    return subprocess.run(words, cwd=config.ROOT, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_no_process_compiles_what_set_up_has_compiled(tmp_path):
    first = python("-m", "lib.explore.ahead", cache=tmp_path)
    assert first.stderr.count(TOLD) == 1
    later = python("-c", LATER, cache=tmp_path)
    assert later.stdout.strip() == "0" and TOLD not in later.stderr
    kept = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    (gone,) = (path for path in tmp_path.rglob("kernels.convolution-*.nbi"))
    gone.unlink()
    again = python("-c", LATER, cache=tmp_path)
    assert "convolution" in again.stdout and again.stderr.count(TOLD) == 1
    assert {"kernels.convolution", "kernels.average_pool", "kernels.addition", "kernels.max_pool"} < kept
