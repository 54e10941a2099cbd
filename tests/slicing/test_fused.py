"""The kernel for GPUs, on the CPU by Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib import config


def test_the_fused_kernel_equals_the_compiled_engine_and_does_most_itself():
    pytest.importorskip("triton")
    words = [sys.executable, str(Path(__file__).parent / "interpreted.py")]
    places = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(config.ROOT)}
    done = subprocess.run(words, env={**os.environ, **places}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = {kind: (int(there), int(left)) for kind, there, left in map(str.split, done.stdout.splitlines())}
    assert counts["real"][0] > 50 and 0 < counts["real"][1] < counts["real"][0] / 2
    assert counts["whole"][1] > 0  # ties, and sums that lie on a threshold
