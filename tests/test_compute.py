"""lib.compute: device, precision, seeds, and what a record says of them."""

import random

import numpy as np
import pytest
import torch

from lib import compute


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


def test_seeding_covers_all_three_and_gives_a_generator():
    def draw(seed):
        generator = compute.seed_all(seed)
        return random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=generator).item()

    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        first, again, other = draw(3), draw(3), draw(4)
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


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


def test_the_device_in_words():
    compute.describe.cache_clear()
    words = compute.describe()
    assert words.startswith("cuda " if torch.cuda.is_available() else "cpu ")
    assert len(words) > 5


def test_peak_memory_grows_and_is_in_megabytes():
    before = compute.peak_memory_mb()
    block = np.ones(2**27 + before * 2**17)  # 1 GB and what the peak holds already
    assert compute.peak_memory_mb() >= before + 500
    del block
