"""One operation of the backward phase on the CPU, compiled: contributions of its outputs passed to weights and inputs.

All take a range of inputs n0..n1 and release Python's lock, so that inputs run in parallel on threads. Arrays are
C-contiguous. Terms that padding would add do not exist. Numbers that helpers are given begin as np.int64: numba would
compile each helper once more for a literal 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lib.slicing import float32
from lib.slicing.select import scratch, smallest_share, threshold, threshold_of_two

SIGNED, PRESENCE = 0, 1  # NNSlicer's rule, EffectivePath's


@njit(nogil=True, cache=True)
def _keep(v, m, void, count, mark, rule, theta, bar, local, keys, sums, links):
    """Local contributions of the terms v[:m] into local[:m]; whether there is any.

    void, keys, sums, links: see `threshold`; count: terms that exist.
    mark: +1 or -1 times them (NNSlicer: sign(dy) sign(CONTRIB); EffectivePath: the sign that the terms are read with).
    """
    if rule == SIGNED:
        if 1.0 / count >= 1.0 - theta:
            return _keep_largest(v, m, void, mark, local)
        limit = threshold(v, m, void, theta, bar, keys, sums, links)
        if limit == np.inf:
            return False
        for j in range(m):
            local[j] = (np.int32(v[j] > limit) - np.int32(v[j] < -limit)) * mark
        return True
    terms = v[:m][void[:m] == 0] * mark
    limit, ties = smallest_share(terms, count, np.zeros(count, np.int64), theta, keys, sums, links)
    if limit == np.inf:
        return False
    k = 0
    for j in range(m):
        local[j] = 0
        if void[j] == 0:
            if terms[k] > limit:
                local[j] = 1
            elif ties > 0 and terms[k] == limit:
                local[j] = 1
                ties -= 1
            k += 1
    return True


@njit(nogil=True, cache=True)
def _keep_largest(v, m, void, mark, local):
    """`_keep` where one term is kept: the largest, the first of equals; its own sign times mark."""
    best = -1
    for j in range(m):
        local[j] = 0
        if void[j] == 0 and (best < 0 or v[j] > v[best]):
            best = j
    if v[best] == 0.0:
        return False
    local[best] = mark if v[best] > 0.0 else -mark
    return True


@njit(nogil=True, cache=True)
def convolution(
    x,
    outside,
    weight,
    weight32,
    marks,
    synapses,
    neurons,
    first,
    stride,
    dilation,
    groups,
    kernel,
    rule,
    theta,
    bar,
    n0,
    n1,
):
    """A convolution; a linear layer is one of a 1x1 kernel.

    A tap in the padding has a term of zero that is marked as void, so that all windows have the taps of the kernel.

    Args:
        x: (N, C, H, W) float64, the layer's input less its mean (EffectivePath: the input), with the padding: zeros.
        outside: (H * W,) int64, VOID in the padding, else 0.
        weight: (O, C / groups * kh * kw) float64.
        weight32: the same in float32, with zeros up to the length of `float32.scratch`'s patch; of length 0 where all
            is to be decided in float64.
        marks: (N, O, oh, ow) int8, see `_keep`; 0 where the output neuron is out of the slice.
        synapses: (N, O, C / groups * kh * kw) int32, or of length 0 where they are not wanted; added to.
        neurons: (N, C, H, W) int32, added to.
        first, stride, dilation, kernel: pairs (rows, columns); first: where in x the first window's first tap lies.
        rule: SIGNED or PRESENCE; theta, bar as in `slice`.
    """
    _, channels, height, width = x.shape
    _, outputs, rows, columns = marks.shape
    group_in, group_out = channels // groups, outputs // groups
    kh, kw = kernel
    m = group_in * kh * kw
    patch, terms = np.empty(m), np.empty(m)
    void = np.zeros(m, np.int64)
    taps = np.empty(m, np.int64)  # from a window's first tap on
    k = 0
    for c in range(group_in):
        for i in range(kh):
            for j in range(kw):
                taps[k] = (c * height + i * dilation[0]) * width + j * dilation[1]
                k += 1
    gathered, local = np.empty(m, np.int32), np.empty(m, np.int32)
    keys, sums, links = scratch(m)
    patch32, keys32, apart = float32.scratch(m)
    void32 = float32.voids(keys32, apart)
    void32[:m] = 0
    whole = True  # whether all of `void` is 0
    wanted = synapses.shape[0] > 0
    for n in range(n0, n1):
        flat_x, flat_in = x[n].reshape(-1), neurons[n].reshape(-1)
        for row in range(rows):
            for column in range(columns):
                corner = (first[0] + row * stride[0]) * width + first[1] + column * stride[1]
                count: Any = np.int64(0)
                for k in range(kh * kw):
                    count += group_in * np.int64(outside[corner + taps[k]] == 0)
                if count == 0:
                    continue
                if count < m or not whole:
                    for k in range(m):
                        void[k] = outside[corner + taps[k % (kh * kw)]]
                        void32[k] = float32.VOID if void[k] != 0 else 0
                    whole = count == m
                for group in range(groups):
                    active = False
                    for o in range(group * group_out, (group + 1) * group_out):
                        if marks[n, o, row, column] != 0:
                            active = True
                            break
                    if not active:
                        continue
                    start = corner + group * group_in * height * width
                    for k in range(m):
                        patch[k] = flat_x[start + taps[k]]
                        patch32[k] = patch[k]
                    gathered[:] = 0
                    quick = len(weight32) > 0 and 1.0 / count < 1.0 - theta
                    for o in range(group * group_out, (group + 1) * group_out):
                        mark = np.int32(marks[n, o, row, column])
                        if mark == 0:
                            continue
                        if quick:
                            total, size = float32.products(weight32, o, patch32, keys32)
                            limit = float32.limit(m, count, total, size, theta, bar, keys32, apart)
                            if limit != float32.UNDECIDED:
                                if not float32.add(keys32, m, limit, mark, synapses, n, o, gathered):
                                    continue
                                float32.add(keys32, m, limit, np.int32(-mark), synapses, n, o, gathered)  # taken back
                        for j in range(m):
                            terms[j] = weight[o, j] * patch[j]
                        if not _keep(terms, m, void, count, mark, rule, theta, bar, local, keys, sums, links):
                            continue
                        if rule == SIGNED:
                            for j in range(m):
                                gathered[j] += local[j]
                        else:
                            for j in range(m):
                                gathered[j] |= local[j]
                        if wanted:
                            synapse_row = synapses[n, o]
                            if rule == SIGNED:
                                for j in range(m):
                                    synapse_row[j] += local[j]
                            else:
                                for j in range(m):
                                    synapse_row[j] |= local[j]
                    for j in range(m):
                        if rule == SIGNED:
                            flat_in[start + taps[j]] += gathered[j]
                        else:
                            flat_in[start + taps[j]] |= gathered[j]


@njit(nogil=True, cache=True)
def average_pool(x, marks, neurons, top, bottom, left, right, rule, theta, bar, n0, n1):
    """An average pool: its rule on the window's inputs, without the factor one over their number.

    Args:
        x, marks, neurons, rule, theta, bar: as in `convolution`.
        top, bottom, left, right: (oh,), (oh,), (ow,), (ow,): each window's rows top..bottom - 1 and columns.
    """
    _, channels, _, width = x.shape
    rows, columns = len(top), len(left)
    most: Any = np.int64(1)
    for row in range(rows):
        for column in range(columns):
            most = max(most, (bottom[row] - top[row]) * (right[column] - left[column]))
    terms, void = np.empty(most), np.zeros(most, np.int64)
    place = np.empty(most, np.int64)
    local = np.empty(most, np.int32)
    keys, sums, links = scratch(most)
    for n in range(n0, n1):
        for c in range(channels):
            flat_in = neurons[n, c].reshape(-1)
            for row in range(rows):
                for column in range(columns):
                    mark = np.int32(marks[n, c, row, column])
                    if mark == 0:
                        continue
                    m = np.int64(0)
                    for h in range(top[row], bottom[row]):
                        for w in range(left[column], right[column]):
                            terms[m] = x[n, c, h, w]
                            place[m] = h * width + w
                            m += 1
                    if m > 0 and _keep(terms, m, void, m, mark, rule, theta, bar, local, keys, sums, links):
                        for j in range(m):
                            if rule == SIGNED:
                                flat_in[place[j]] += local[j]
                            else:
                                flat_in[place[j]] |= local[j]


@njit(nogil=True, cache=True)
def addition(a, b, marks, into_a, into_b, rule, theta, bar, n0, n1):
    """An element-wise sum of two branches: the rule on the two terms; arrays (N, neurons)."""
    two: Any = np.int64(2)
    terms, void = np.empty(two), np.zeros(two, np.int64)
    local = np.empty(two, np.int32)
    keys, sums, links = scratch(two)
    for n in range(n0, n1):
        for i in range(marks.shape[1]):
            mark = np.int32(marks[n, i])
            if mark == 0:
                continue
            terms[0], terms[1] = a[n, i], b[n, i]
            if rule == SIGNED and theta < 0.5:
                limit = threshold_of_two(terms[0], terms[1], theta, bar)
                into_a[n, i] += (np.int32(terms[0] > limit) - np.int32(terms[0] < -limit)) * mark
                into_b[n, i] += (np.int32(terms[1] > limit) - np.int32(terms[1] < -limit)) * mark
            elif _keep(terms, two, void, two, mark, rule, theta, bar, local, keys, sums, links):
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
