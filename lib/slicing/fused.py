"""NNSlicer's rule for convolutions and linear layers on a GPU: one program for some places of a channel, in Triton.

A program sorts the terms of a neuron by magnitude in registers, takes the running sum, and finds the first term that is
kept no more: nothing but contributions goes back to memory. Terms, their order and the exactness are those of
`lib.slicing.select`: whatever lies within the rounding error of a threshold is left to the caller, as are neurons of
which one term is kept, and terms of equal magnitude and other sign, whose order in the running sum counts.

Tests run the kernel on the CPU, by Triton's interpreter (TRITON_INTERPRET=1 before this module is imported). It has not
run on a GPU yet, so a slice uses it only where it is asked to (engine="fused");
`python -m benchmarks.slicing --device cuda --engine fused` compares it with the plain rule there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lib.slicing.select import BUCKETS
from lib.slicing.windows import Convolution

PROGRAMS = 8192  # enough for any device
_SIGN = tl.constexpr(-(2**63))
_REST = tl.constexpr(2**63 - 1)


@triton.jit
def _convolution(  # type: ignore[no-untyped-def]
    x, weight, marks, left, synapses, into, numbers,
    channels, height, width, outputs, columns, places, m, group_in, group_out, kernel_rows, kernel_columns,
    stride_rows, stride_columns, padding_rows, padding_columns, dilation_rows, dilation_columns, chunk,
    M: tl.constexpr, SYNAPSES: tl.constexpr,
):  # fmt: skip
    image, channel = tl.program_id(0) // outputs, tl.program_id(0) % outputs
    # Python's numbers would come in single precision.
    theta, bar, small, slack = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3)
    j = tl.arange(0, M)
    exists = j < m
    source = (channel // group_out) * group_in + j // (kernel_rows * kernel_columns)
    tap_row = (j // kernel_columns) % kernel_rows * dilation_rows - padding_rows
    tap_column = j % kernel_columns * dilation_columns - padding_columns
    row_of_weights = tl.load(weight + channel * m + j, mask=exists, other=0.0)
    base = image.to(tl.int64) * channels * height * width
    kept_of_weights = tl.zeros((M,), tl.int32)
    first_place = tl.program_id(1) * chunk
    for place in range(first_place, tl.minimum(first_place + chunk, places)):
        at = (image * outputs + channel).to(tl.int64) * places + place
        mark = tl.load(marks + at).to(tl.int32)
        if mark != 0:
            h = place // columns * stride_rows + tap_row
            w = place % columns * stride_columns + tap_column
            inside = exists & (h >= 0) & (h < height) & (w >= 0) & (w < width)
            where = base + (source * height + h) * width + w
            terms = row_of_weights * tl.load(x + where, mask=inside, other=0.0)
            size = tl.abs(terms)
            length = tl.sum(inside.to(tl.int32), 0)
            total, weight_sum, largest = tl.sum(terms, 0), tl.sum(size, 0), tl.max(size, 0)
            smallest = tl.min(tl.where(inside, size, float("inf")), 0)
            error = slack * weight_sum
            if largest > 0.0:
                doubt = (tl.abs(tl.abs(total) - smallest) <= error) | (tl.abs(tl.abs(total) - small * largest) <= error)
                doubt = doubt | (1.0 / length.to(tl.float64) >= 1.0 - theta)
                empty = (tl.abs(total) < smallest) | (tl.abs(total) < small * largest)
                # By magnitude, the sign in the last bit; what is not there has magnitude zero and comes last.
                bits = terms.to(tl.int64, bitcast=True)
                order = tl.sort(((bits << 1) | ((bits >> 63) & 1)) ^ _SIGN, descending=True) ^ _SIGN
                sizes = ((order >> 1) & _REST).to(tl.float64, bitcast=True)
                running = tl.cumsum(tl.where((order & 1) != 0, -sizes, sizes), 0)
                distance, window = tl.abs(running - total), theta * tl.abs(total)
                near = (tl.abs(distance - window) <= error) & (j < length)
                met = ((distance < window) & (j < length)) | near
                first = tl.min(tl.where(met, j, M), 0)
                level = tl.where(first < M, tl.sum(tl.where(j == first, sizes, 0.0), 0), smallest)
                follower = tl.gather(order, tl.minimum(j + 1, M - 1), 0)
                mixed = ((order ^ follower) == 1) & (sizes > 0.0) & (j <= first)
                doubt = doubt | (tl.max(((near & (j == first)) | mixed).to(tl.int32), 0) > 0)
                if doubt:
                    tl.store(left + at, mark.to(tl.int8))
                else:
                    if not empty:
                        chosen = inside & (size > level * (1.0 - bar))
                        found = tl.where(chosen, tl.where(terms > 0.0, mark, -mark), 0)
                        kept_of_weights += found
                        tl.atomic_add(into + where, found, mask=chosen)
    if SYNAPSES:
        rows = synapses + (image * outputs + channel).to(tl.int64) * m + j
        tl.atomic_add(rows, kept_of_weights, mask=exists & (kept_of_weights != 0))


def convolution(
    x: Tensor,
    weight: Tensor,
    marks: Tensor,
    synapses: Tensor | None,
    into: Tensor,
    geometry: Convolution,
    theta: float,
    bar: float,
) -> Tensor:
    """Contributions of a convolution's outputs passed to its weights and inputs, all but the doubtful ones.

    Args:
        x: (N, C, H, W) float64, the layer's input less its mean.
        weight: (O, C / groups * kh * kw) float64.
        marks: (N, O, oh, ow) int8, what each output's terms are multiplied by; 0 where it is out of the slice.
        synapses: (N, O, C / groups * kh * kw) int32, added to; None: not wanted.
        into: (N, C, H, W) int32, added to.
        geometry: of the convolution.
        theta, bar: as in `slice`.
    Returns: int8 (N, O, oh, ow): the marks of the outputs that are left to do.
    """
    count, channels, height, width = x.shape
    outputs, rows, columns = marks.shape[1:]
    m = weight.shape[1]
    left = torch.zeros_like(marks)
    if marks.numel() == 0:
        return left
    padded = triton.next_power_of_2(max(m, 2))
    slack = 2.0 * (padded + 2 * BUCKETS) * 2.0**-52  # of the sum of magnitudes: bounds the rounding of all sums
    numbers = torch.tensor([theta, bar, 1e-3, slack], dtype=torch.float64, device=x.device)
    chunk = triton.cdiv(rows * columns, min(rows * columns, triton.cdiv(PROGRAMS, count * outputs)))
    _convolution[(count * outputs, triton.cdiv(rows * columns, chunk))](
        x, weight, marks.contiguous(), left, into if synapses is None else synapses, into, numbers,
        channels, height, width, outputs, columns, rows * columns, m, channels // geometry.groups,
        outputs // geometry.groups, *geometry.kernel, *geometry.stride, *geometry.padding, *geometry.dilation, chunk,
        M=padded, SYNAPSES=synapses is not None, num_warps=max(1, min(8, padded // 128)), enable_fp_fusion=False,
    )  # fmt: skip
    return left
