"""Device, precision, seeds and threads: how a run computes, and how it says so."""

import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache

import torch

from lib import config


def device(prefer: str = "auto") -> torch.device:
    """The device to compute on.

    Args:
        prefer: auto (a GPU where there is one), cpu, cuda, cuda:<k> or mps.
    Raises: RuntimeError where the device asked for is not there.
    """
    if prefer == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(prefer)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {prefer!r} was asked for and no CUDA device is there: set compute.device to auto")
    return chosen


def autocast(on: torch.device, precision: str) -> AbstractContextManager:
    """Autocast to bfloat16 on a device, or nothing for float32."""
    return torch.autocast(on.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the network is in evaluation mode and autocast is off; each module's own mode is given back after."""
    training = [module for module in model.modules() if module.training]
    device = next(model.parameters(), torch.empty(0)).device
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def deterministic() -> None:
    """Ask torch, cuDNN and cuBLAS for operations that give the same bytes each time; those that cannot warn.

    docs/reproducibility.md lists them, and what still differs between machines.
    """
    config.steady_cublas()
    # As use_deterministic_algorithms(True, warn_only=True), without its import of the compiler: a second a process.
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.benchmark = False


def set_threads(count: int) -> None:
    """Threads of torch's own operations."""
    torch.set_num_threads(count)


@lru_cache(maxsize=1)
def describe() -> str:
    """The device in words, for a record: "cuda <name>" or "cpu <model>"."""
    if torch.cuda.is_available():
        return f"cuda {torch.cuda.get_device_name()}"
    try:
        with open("/proc/cpuinfo") as info:
            model = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu {model}"


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in MB."""
    try:  # getrusage would also count what the parent held when it started this process
        with open("/proc/self/status") as status:
            return round(int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**10)
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
