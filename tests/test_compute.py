"""lib.compute: device, precision, and what a record says of them."""

import subprocess
import sys

import numpy
import pytest
import torch

from lib import compute, config


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.device() == torch.device("cuda")
    assert compute.device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.device("auto") == torch.device("cpu")
    assert compute.device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(monkeypatch, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=f"device '{wanted}' was asked for.*set compute.device to auto"):
        compute.device(wanted)


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_autocast(precision, dtype):
    matrix = torch.eye(2)
    with compute.autocast(torch.device("cpu"), precision):
        assert (matrix @ matrix).dtype == dtype
    assert (matrix @ matrix).dtype == torch.float32


def test_deterministic_and_threads():
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        compute.set_threads(1)
        compute.deterministic()
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def test_deterministic_loads_no_compiler():
    program = "import sys; from lib import compute; compute.deterministic(); print('torch._inductor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_device_in_words():
    compute.describe.cache_clear()
    words = compute.describe()
    assert words.startswith("cuda " if torch.cuda.is_available() else "cpu ")
    assert len(words) > 5


def test_peak_memory_grows_and_is_in_megabytes():
    program = """
import numpy
from lib import compute, config
before = compute.peak_memory_mb()
block = numpy.ones(2**27)
print(before, compute.peak_memory_mb())
"""
    held = numpy.ones(2**28)  # what this process holds is not the other's: 2 GB here must not show there
    done = subprocess.run([sys.executable, "-c", program], cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert held.any()
    before, after = map(int, done.stdout.split())
    assert 50 < before < 2000
    assert 512 < after - before < 1100  # 1,024 MB, less what importing had taken and given back
