"""One operation of the backward phase on the CPU, compiled: contributions of its outputs passed to weights and inputs.

All take a range of inputs n0..n1 and release Python's lock, so that inputs run in parallel on threads. Arrays are
C-contiguous and padded nowhere: terms that padding would add do not exist.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lib.slicing.select import BUCKETS, argmax, smallest_share, threshold

SIGNED, PRESENCE = 0, 1  # NNSlicer's rule, EffectivePath's


@njit(nogil=True, cache=True)
def _keep(v, m, mark, rule, theta, bar, values, size, keys, buckets, local):
    """Local contributions of the terms v[:m] into local[:m]; whether there is any.

    mark: +1 or -1 times them (NNSlicer: sign(dy) sign(CONTRIB); EffectivePath: the sign that the terms are read with).
    """
    if rule == SIGNED:
        if 1.0 / m >= 1.0 - theta:
            best = argmax(v, m)
            for j in range(m):
                local[j] = 0
            if v[best] == 0.0:
                return False
            local[best] = mark if v[best] > 0.0 else -mark
            return True
        limit = threshold(v, m, theta, bar, values, size, keys, buckets)
        if limit == np.inf:
            return False
        for j in range(m):
            local[j] = (np.int32(v[j] > limit) - np.int32(v[j] < -limit)) * mark
        return True
    if mark < 0:
        for j in range(m):
            v[j] = -v[j]
    limit, ties = smallest_share(v, m, theta, values, size, keys, buckets)
    if limit == np.inf:
        return False
    for j in range(m):
        local[j] = 1 if v[j] > limit else 0
    for j in range(m):
        if ties > 0 and v[j] == limit:
            local[j] = 1
            ties -= 1
    return True


@njit(nogil=True, cache=True)
def convolution(
    x, weight, marks, synapses, neurons, stride, padding, dilation, groups, kernel, rule, theta, bar, n0, n1
):
    """A convolution; a linear layer is one of a 1x1 kernel.

    Args:
        x: (N, C, H, W) float64, the layer's input less its mean (EffectivePath: the input).
        weight: (O, C / groups * kh * kw) float64.
        marks: (N, O, oh, ow) int8, see `_keep`; 0 where the output neuron is out of the slice.
        synapses: (N, O, C / groups * kh * kw) int32, or of length 0 where they are not wanted; added to.
        neurons: (N, C, H, W) int32, added to.
        stride, padding, dilation, kernel: pairs.
        rule: SIGNED or PRESENCE; theta, bar as in `slice`.
    """
    _, channels, height, width = x.shape
    _, outputs, rows, columns = marks.shape
    group_in, group_out = channels // groups, outputs // groups
    kh, kw = kernel
    size_all = group_in * kh * kw
    patch = np.empty(size_all)
    terms = np.empty(size_all)
    tap = np.empty(size_all, np.int64)  # place in the kernel
    place = np.empty(size_all, np.int64)  # place in the input
    gathered = np.empty(size_all, np.int32)
    local = np.empty(size_all, np.int32)
    values = np.empty(size_all + 1)
    size = np.empty(size_all)
    keys = np.empty(size_all, np.uint8)
    buckets = np.empty((2, BUCKETS))
    wanted = synapses.shape[0] > 0
    for n in range(n0, n1):
        flat_in = neurons[n].reshape(-1)
        for row in range(rows):
            top = row * stride[0] - padding[0]
            for column in range(columns):
                left = column * stride[1] - padding[1]
                for group in range(groups):
                    active = False
                    for o in range(group * group_out, (group + 1) * group_out):
                        if marks[n, o, row, column] != 0:
                            active = True
                            break
                    if not active:
                        continue
                    m = 0
                    for c in range(group_in):
                        channel = group * group_in + c
                        for i in range(kh):
                            h = top + i * dilation[0]
                            if h < 0 or h >= height:
                                continue
                            for j in range(kw):
                                w = left + j * dilation[1]
                                if w < 0 or w >= width:
                                    continue
                                patch[m] = x[n, channel, h, w]
                                tap[m] = (c * kh + i) * kw + j
                                place[m] = (channel * height + h) * width + w
                                m += 1
                    if m == 0:
                        continue
                    gathered[:m] = 0
                    for o in range(group * group_out, (group + 1) * group_out):
                        mark = np.int32(marks[n, o, row, column])
                        if mark == 0:
                            continue
                        kernel_row = weight[o]
                        if m == size_all:
                            for j in range(m):
                                terms[j] = kernel_row[j] * patch[j]
                        else:
                            for j in range(m):
                                terms[j] = kernel_row[tap[j]] * patch[j]
                        if not _keep(terms, m, mark, rule, theta, bar, values, size, keys, buckets, local):
                            continue
                        if rule == SIGNED:
                            for j in range(m):
                                gathered[j] += local[j]
                        else:
                            for j in range(m):
                                gathered[j] |= local[j]
                        if wanted:
                            synapse_row = synapses[n, o]
                            if rule == PRESENCE:
                                for j in range(m):
                                    synapse_row[tap[j]] |= local[j]
                            elif m == size_all:
                                for j in range(m):
                                    synapse_row[j] += local[j]
                            else:
                                for j in range(m):
                                    synapse_row[tap[j]] += local[j]
                    if rule == SIGNED:
                        for j in range(m):
                            flat_in[place[j]] += gathered[j]
                    else:
                        for j in range(m):
                            flat_in[place[j]] |= gathered[j]


@njit(nogil=True, cache=True)
def average_pool(x, marks, neurons, top, bottom, left, right, rule, theta, bar, n0, n1):
    """An average pool: its rule on the window's inputs, without the factor one over their number.

    Args:
        x, marks, neurons, rule, theta, bar: as in `convolution`.
        top, bottom, left, right: (oh,), (oh,), (ow,), (ow,): each window's rows top..bottom - 1 and columns.
    """
    _, channels, _, width = x.shape
    rows, columns = len(top), len(left)
    most = 1
    for row in range(rows):
        for column in range(columns):
            most = max(most, (bottom[row] - top[row]) * (right[column] - left[column]))
    terms = np.empty(most)
    place = np.empty(most, np.int64)
    local = np.empty(most, np.int32)
    values = np.empty(most + 1)
    size = np.empty(most)
    keys = np.empty(most, np.uint8)
    buckets = np.empty((2, BUCKETS))
    for n in range(n0, n1):
        for c in range(channels):
            flat_in = neurons[n, c].reshape(-1)
            for row in range(rows):
                for column in range(columns):
                    mark = np.int32(marks[n, c, row, column])
                    if mark == 0:
                        continue
                    m = 0
                    for h in range(top[row], bottom[row]):
                        for w in range(left[column], right[column]):
                            terms[m] = x[n, c, h, w]
                            place[m] = h * width + w
                            m += 1
                    if m > 0 and _keep(terms, m, mark, rule, theta, bar, values, size, keys, buckets, local):
                        for j in range(m):
                            if rule == SIGNED:
                                flat_in[place[j]] += local[j]
                            else:
                                flat_in[place[j]] |= local[j]


@njit(nogil=True, cache=True)
def addition(a, b, marks, into_a, into_b, rule, theta, bar, n0, n1):
    """An element-wise sum of two branches: the rule on the two terms; arrays (N, neurons)."""
    terms = np.empty(2)
    local = np.empty(2, np.int32)
    values = np.empty(3)
    size = np.empty(2)
    keys = np.empty(2, np.uint8)
    buckets = np.empty((2, BUCKETS))
    for n in range(n0, n1):
        for i in range(marks.shape[1]):
            mark = np.int32(marks[n, i])
            if mark == 0:
                continue
            terms[0] = a[n, i]
            terms[1] = b[n, i]
            if _keep(terms, 2, mark, rule, theta, bar, values, size, keys, buckets, local):
                if rule == SIGNED:
                    into_a[n, i] += local[0]
                    into_b[n, i] += local[1]
                else:
                    into_a[n, i] |= local[0]
                    into_b[n, i] |= local[1]


@njit(nogil=True, cache=True)
def max_pool(x, contributions, neurons, top, left, kernel_rows, kernel_columns, dilation, rule, n0, n1):
    """A max pool: CONTRIB copied to every position of the window that equals its maximum.

    Args:
        x: (N, C, H, W) float64, raw.
        contributions: (N, C, oh, ow) int32.
        neurons: (N, C, H, W) int32, added to.
        top, left: (oh,), (ow,): first row and column of each window, which may lie in the padding.
        kernel_rows, kernel_columns: (oh,), (ow,): taps of each window; dilation: (rows, columns) between them.
    """
    _, channels, height, width = x.shape
    rows, columns = len(top), len(left)
    for n in range(n0, n1):
        for c in range(channels):
            for row in range(rows):
                for column in range(columns):
                    contribution = contributions[n, c, row, column]
                    if contribution == 0:
                        continue
                    largest = -np.inf
                    for i in range(kernel_rows[row]):
                        h = top[row] + i * dilation[0]
                        if h < 0 or h >= height:
                            continue
                        for j in range(kernel_columns[column]):
                            w = left[column] + j * dilation[1]
                            if 0 <= w < width:
                                largest = max(largest, x[n, c, h, w])
                    for i in range(kernel_rows[row]):
                        h = top[row] + i * dilation[0]
                        if h < 0 or h >= height:
                            continue
                        for j in range(kernel_columns[column]):
                            w = left[column] + j * dilation[1]
                            if 0 <= w < width and x[n, c, h, w] == largest:
                                if rule == SIGNED:
                                    neurons[n, c, h, w] += contribution
                                else:
                                    neurons[n, c, h, w] |= contribution
