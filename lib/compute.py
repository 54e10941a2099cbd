"""Device, precision, seeds and threads: how a run computes, and how it says so."""

import platform
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from lib import config


def device(prefer: str = "auto") -> torch.device:
    """The device to compute on. Where it is a GPU, float32 is true float32 from then on, see `true_float32`.

    Args:
        prefer: auto (a GPU where there is one), cpu, cuda, cuda:<k> or mps.
    Raises: RuntimeError where the device asked for is not there.
    """
    there = torch.cuda.is_available()
    chosen = torch.device(("cuda" if there else "cpu") if prefer == "auto" else prefer)
    if chosen.type == "cuda":
        if not there:
            raise RuntimeError(
                f"device {prefer!r} was asked for and no CUDA device is there: set compute.device to auto"
            )
        true_float32()
    return chosen


@contextmanager
def autocast(on: torch.device, precision: str) -> Iterator[None]:
    """Autocast to bfloat16 on a device, or nothing for float32; what trains a network runs it within.

    On a CPU that cannot multiply in bfloat16, convolutions and linear layers round to bfloat16 what they take and give,
    and multiply in float32: the same roundings, twice as fast as torch's own emulation. On a CPU without AVX-512,
    convolutions keep clear of an error of oneDNN's, see `_taken_apart`.
    """
    asked = precision == "bfloat16"
    cpu = on.type == "cpu"
    rounded = asked and cpu and not torch.cpu._is_avx512_bf16_supported()
    apart = cpu and not torch.cpu._is_avx512_supported()
    products = _Products(rounded, apart) if rounded or apart else nullcontext()
    with torch.autocast(on.type, torch.bfloat16, enabled=asked), products:
        yield


class _Products(TorchFunctionMode):
    """How convolutions and linear layers are computed.

    Args:
        rounded: where autocast is on, products of bfloat16 numbers are computed in float32.
        apart: convolutions are as `_taken_apart` has them.
    """

    def __init__(self, rounded: bool, apart: bool) -> None:
        super().__init__()
        self.rounded, self.apart = rounded, apart

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.conv2d and self.apart:
            args, kwargs = _taken_apart(*args, **kwargs), {}
        if not self.rounded or function not in (F.conv2d, F.linear) or not torch.is_autocast_enabled("cpu"):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.bfloat16().float(), (args, kwargs))
            return function(*args, **kwargs).bfloat16()


def _taken_apart(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:
    """Arguments of an equal convolution: the pixels that a strided 1x1 one reads are taken first.

    With AVX2, up to 7 input channels and channels_last, oneDNN 3.12 writes such a one's gradient of the weights past
    the memory it has: wrong gradients, or a crash (github.com/uxlfoundation/oneDNN/issues/6035).
    """
    steps, unpadded = _pair(stride), padding == "valid" or _pair(padding) == (0, 0)
    if weight.shape[1] < 8 and tuple(weight.shape[2:]) == (1, 1) and steps != (1, 1) and unpadded:
        input, stride = input[..., :: steps[0], :: steps[1]], 1
    return input, weight, bias, stride, padding, dilation, groups


@contextmanager
def evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the network is in evaluation mode, autocast is off and float32 is float32 on any device; each module's
    own mode, and torch's settings, are given back after."""
    training = [module for module in model.modules() if module.training]
    device = next(model.parameters(), torch.empty(0)).device
    model.eval()
    try:
        with _in_true_float32(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def true_float32() -> None:
    """Turn TF32 off for convolutions (torch's default is on) and matrix products.

    TF32 keeps 10 of float32's 23 bits of each factor. Gradients near zero, ties and near-equal logits, on which attacks
    and the examination of gradient masking rest, would be its rounding. Training in bfloat16 does not use it.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for operation in _operations():
        if operation.fp32_precision == "tf32":  # as torch.backends.fp32_precision, the user's, has it for all
            operation.fp32_precision = "ieee"


@contextmanager
def _in_true_float32() -> Iterator[None]:
    """Inside, TF32 is off; torch's settings are given back after, by the names that the user set them by."""
    by_operation = [operation.fp32_precision for operation in _operations()]
    convolutions = _older(lambda: torch.backends.cudnn.allow_tf32)
    products = _older(torch.get_float32_matmul_precision)
    true_float32()
    try:
        yield
    finally:
        older = (convolutions, convolutions, products)
        for operation, precision, known in zip(_operations(), by_operation, older, strict=True):
            if known is None:
                operation.fp32_precision = precision
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)


def _older(ask: Callable[[], Any]) -> Any:
    """What torch's older names say; None where the newer ones were used, which it then refuses to translate."""
    try:
        return ask()
    except RuntimeError:
        return None


def _operations() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul


def deterministic() -> None:
    """Ask torch, cuDNN and cuBLAS for operations that give the same bytes each time; those that cannot warn.

    docs/reproducibility.md lists them, and what still differs between machines.
    """
    config.steady_cublas()
    # As use_deterministic_algorithms(True, warn_only=True), without its import of the compiler: a second a process.
    torch.set_deterministic_debug_mode("warn")
    # Deterministic mode would fill memory that is not written yet with NaN, a pass over many a new tensor, so that a
    # read of it repeats itself. Nothing here reads such memory: each `empty` of `lib` is written whole before it is
    # read, as it had to be while it was filled, since one NaN would have reached the results.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
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
