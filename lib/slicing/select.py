"""Which terms of a weighted sum matter: the rules of NNSlicer and EffectivePath, compiled, equal to the plain ones.

Both rules order the terms and look for the first running sum that meets a condition. Sorting is most of their cost,
so terms are put into buckets of nearly equal magnitude and only those buckets are sorted in which a running sum can
meet the condition. Sums made in another order differ in the last bits: wherever a decision lies within the proven
rounding error of its threshold, it is made again on fully sorted terms with an exactly rounded sum.

Source: NNSlicer (FSE 2020, https://arxiv.org/abs/2009.13747), section 3.4, and its released code; EffectivePath (Qiu
et al., CVPR 2019, https://arxiv.org/abs/1904.08089).
"""

from __future__ import annotations

import numpy as np
from numba import njit

SMALL = 12  # so few terms are sorted at once
BUCKETS = 192  # sixteen an octave, so 12 octaves below the largest term; the last bucket takes the rest
_SHIFT = 48  # of a float64's bits: leaves sign, exponent and the four upper bits of the fraction
_SIGNLESS = np.int64(2**63 - 1)
_EPSILON = 2.0**-52


@njit(nogil=True, cache=True)
def exact_sum(v: np.ndarray, m: int, partials: np.ndarray) -> float:
    """Sum of v[:m], rounded once (Shewchuk 1997, as Python's math.fsum).

    Args:
        v: float64 terms.
        m: how many.
        partials: scratch, at least m + 1 long.
    """
    count = 0
    for j in range(m):
        x = v[j]
        kept = 0
        for i in range(count):
            y = partials[i]
            if abs(x) < abs(y):
                x, y = y, x
            high = x + y
            low = y - (high - x)
            if low != 0.0:
                partials[kept] = low
                kept += 1
            x = high
        partials[kept] = x
        count = kept + 1
    if count == 0:
        return 0.0
    count -= 1
    high = partials[count]
    low = 0.0
    while count > 0:
        x = high
        count -= 1
        y = partials[count]
        high = x + y
        low = y - (high - x)
        if low != 0.0:
            break
    if count > 0 and ((low < 0.0 and partials[count - 1] < 0.0) or (low > 0.0 and partials[count - 1] > 0.0)):
        y = low * 2.0
        x = high + y
        if y == x - high:
            high = x
    return high


@njit(nogil=True, cache=True)
def _sort(values: np.ndarray, size: np.ndarray, m: int) -> None:
    """Order values[:m] by size[:m], largest first, both moved; equal sizes keep their order.

    Runs of 32 by insertion, then merged.
    """
    for start in range(0, m, 32):
        for j in range(start + 1, min(start + 32, m)):
            x, s = values[j], size[j]
            i = j - 1
            while i >= start and size[i] < s:
                values[i + 1] = values[i]
                size[i + 1] = size[i]
                i -= 1
            values[i + 1] = x
            size[i + 1] = s
    run = 32
    while run < m:
        for start in range(0, m - run, 2 * run):
            middle, end = start + run, min(start + 2 * run, m)
            left_values, left_size = values[start:middle].copy(), size[start:middle].copy()
            a, b = 0, middle
            for k in range(start, end):
                if a == run:
                    break
                if b < end and size[b] > left_size[a]:
                    values[k], size[k] = values[b], size[b]
                    b += 1
                else:
                    values[k], size[k] = left_values[a], left_size[a]
                    a += 1
        run *= 2


@njit(nogil=True, cache=True)
def exact_threshold(v: np.ndarray, m: int, theta: float, bar: float, values: np.ndarray, size: np.ndarray) -> float:
    """`threshold` as the rule is written: all terms sorted, the sum exact, the running sum sequential."""
    total = exact_sum(v, m, values)
    for j in range(m):
        values[j] = v[j]
        size[j] = abs(v[j])
    _sort(values, size, m)
    if size[0] == 0.0 or abs(total) < size[m - 1] or abs(total) < 1e-3 * size[0]:
        return np.inf
    running = 0.0
    for k in range(m):
        running += values[k]
        if abs(running - total) < theta * abs(total):
            return size[k] * (1.0 - bar)
    return size[m - 1] * (1.0 - bar)


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "nnan"})
def _sums(v: np.ndarray, m: int) -> tuple[float, float, float, float]:
    """Sum, sum of magnitudes, largest and smallest magnitude of v[:m]."""
    total, weight, largest, smallest = 0.0, 0.0, 0.0, np.inf
    for j in range(m):
        size = abs(v[j])
        total += v[j]
        weight += size
        largest = max(largest, size)
        smallest = min(smallest, size)
    return total, weight, largest, smallest


@njit(nogil=True, cache=True)
def threshold(
    v: np.ndarray,
    m: int,
    theta: float,
    bar: float,
    values: np.ndarray,
    size: np.ndarray,
    keys: np.ndarray,
    buckets: np.ndarray,
) -> float:
    """NNSlicer's select: the magnitude above which the terms v[:m] are kept; infinite where none is.

    With S the sum and u the terms by magnitude, largest first: nothing where |S| < |u_m| or |S| < 1e-3 |u_1|; else
    |u_k| (1 - bar) for the first k at which |u_1 + .. + u_k - S| < theta |S| (the last k where there is none).
    The case of a single arg-max, 1 / m >= 1 - theta, is the caller's.

    Args:
        v: float64 terms; size: scratch as long, values: one longer; keys: uint8 scratch as long; buckets: scratch,
            (2, BUCKETS).
    """
    total, weight, largest, smallest = _sums(v, m)
    if largest == 0.0:
        return np.inf
    error = 2.0 * (m + BUCKETS) * _EPSILON * weight  # bounds the rounding of all sums below together, in any order
    if abs(abs(total) - smallest) <= error or abs(abs(total) - 1e-3 * largest) <= error:
        return exact_threshold(v, m, theta, bar, values, size)
    if abs(total) < smallest or abs(total) < 1e-3 * largest:
        return np.inf
    window = theta * abs(total)
    running = 0.0
    if m <= SMALL:
        for j in range(m):
            values[j] = v[j]
            size[j] = abs(v[j])
        _sort(values, size, m)
        for k in range(m):
            running += values[k]
            distance = abs(running - total)
            if abs(distance - window) <= error:
                return exact_threshold(v, m, theta, bar, values, size)
            if distance < window:
                return size[k] * (1.0 - bar)
        return size[m - 1] * (1.0 - bar)

    bits = v.view(np.int64)
    size[0] = largest
    top = size.view(np.int64)[0] >> _SHIFT
    buckets[:] = 0.0
    for j in range(m):
        b = min(top - ((bits[j] & _SIGNLESS) >> _SHIFT), BUCKETS - 1)
        keys[j] = b
        buckets[0, b] += v[j]
        buckets[1, b] += abs(v[j])
    slack = window + error
    for b in range(BUCKETS):
        up = 0.5 * (buckets[1, b] + buckets[0, b])
        down = 0.5 * (buckets[1, b] - buckets[0, b])
        if running + up < total - slack or running - down > total + slack:
            running += buckets[0, b]
            continue
        count = 0
        for j in range(m):
            if keys[j] == b:
                values[count] = v[j]
                size[count] = abs(v[j])
                count += 1
        _sort(values, size, count)
        for k in range(count):
            running += values[k]
            distance = abs(running - total)
            if abs(distance - window) <= error:
                return exact_threshold(v, m, theta, bar, values, size)
            if distance < window:
                return size[k] * (1.0 - bar)
    return smallest * (1.0 - bar)


@njit(nogil=True, cache=True)
def argmax(v: np.ndarray, m: int) -> int:
    """Position of the largest term, the first of equals."""
    best = 0
    for j in range(1, m):
        if v[j] > v[best]:
            best = j
    return best


@njit(nogil=True, cache=True)
def smallest_share(
    v: np.ndarray,
    m: int,
    share: float,
    values: np.ndarray,
    size: np.ndarray,
    keys: np.ndarray,
    buckets: np.ndarray,
) -> tuple[float, int]:
    """EffectivePath's select: the smallest set of the largest terms of v[:m] that sums to `share` of their sum.

    Args: as `threshold`; share of the sum, in (0, 1].
    Returns: (t, ties): keep every v > t, and the first `ties` of those equal to t. The arg-max where the sum is not
        above 0; (infinity, 0) where all terms are 0.
    """
    total, weight, largest, _ = _sums(v, m)
    if largest == 0.0:
        return np.inf, 0
    error = 2.0 * (m + BUCKETS) * _EPSILON * weight
    if abs(total) <= error:
        return exact_share(v, m, share, values, size)
    if total < 0.0:
        return v[argmax(v, m)], 1
    goal = share * total
    running = 0.0
    bits = v.view(np.int64)
    size[0] = largest
    top = size.view(np.int64)[0] >> _SHIFT
    buckets[:] = 0.0
    for j in range(m):
        b = min(top - ((bits[j] & _SIGNLESS) >> _SHIFT), BUCKETS - 1)
        keys[j] = b if v[j] > 0.0 else 255
        buckets[0, b] += max(v[j], 0.0)
    for b in range(BUCKETS):
        if running + buckets[0, b] < goal - error:
            running += buckets[0, b]
            continue
        count = 0
        for j in range(m):
            if keys[j] == b:
                values[count] = v[j]
                size[count] = v[j]
                count += 1
        _sort(values, size, count)
        for k in range(count):
            running += values[k]
            if abs(running - goal) <= error:
                return exact_share(v, m, share, values, size)
            if running >= goal:
                ties = 1
                while ties <= k and values[k - ties] == values[k]:
                    ties += 1
                return values[k], ties
    return exact_share(v, m, share, values, size)


@njit(nogil=True, cache=True)
def exact_share(v: np.ndarray, m: int, share: float, values: np.ndarray, size: np.ndarray) -> tuple[float, int]:
    """`smallest_share` as the rule is written."""
    total = exact_sum(v, m, values)
    if total <= 0.0:
        return v[argmax(v, m)], 1
    values[:m] = v[:m]
    size[:m] = v[:m]
    _sort(values, size, m)
    goal = share * total
    running = 0.0
    for k in range(m):
        running += values[k]
        if running >= goal or k == m - 1:
            ties = 1
            while ties <= k and values[k - ties] == values[k]:
                ties += 1
            return values[k], ties
    return np.inf, 0
