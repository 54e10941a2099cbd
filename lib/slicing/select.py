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

SMALL = 16  # so few terms are ranked at once
BUCKETS = 128  # sixteen an octave, so 8 octaves below the largest term; the last bucket takes the rest
CROWD = 256  # terms of a bucket that are no longer sorted by insertion
_SHIFT = 48  # of a float64's bits: leaves sign, exponent and the four upper bits of the fraction
_SIGNLESS = np.int64(2**63 - 1)
VOID = _SIGNLESS  # marks a term that does not exist: above every magnitude's bits
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
def exact_threshold(v: np.ndarray, m: int, theta: float, bar: float) -> float:
    """`threshold` as the rule is written: all terms sorted, the sum exact, the running sum sequential."""
    values, size = np.empty(m + 1), np.empty(m)
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


@njit(nogil=True, cache=True)
def scratch(m: int) -> tuple[np.ndarray, ...]:
    """Room for the work on up to m terms: what `threshold` and `smallest_share` are given last.

    Few arrays, as each costs time in every call.

    Returns: keys (m,) uint8, bucket and sign of each term; sums (2 * BUCKETS,) of the magnitudes of each bucket's
        positive and negative terms; links (2 * BUCKETS + 2 * m,) int32: first, for each of these, the position of the
        last such term, -1 where there is none; from 2 * BUCKETS on, for each term, the position of the one of the same
        bucket and sign before it; then positions by magnitude.
    """
    return np.empty(m, np.uint8), np.empty(2 * BUCKETS), np.empty(2 * BUCKETS + 2 * m, np.int32)


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "nnan"})
def _sums(v: np.ndarray, m: int, void: np.ndarray) -> tuple[float, float, np.int64, np.int64]:
    """Sum, sum of magnitudes, and the bits of the largest and smallest magnitude of v[:m].

    Magnitudes are compared as whole numbers, which order as they do and which the compiler can work on side by side.
    """
    total, weight = 0.0, 0.0
    bits = v.view(np.int64)
    largest, smallest = np.int64(0), _SIGNLESS
    for j in range(m):
        total += v[j]
        weight += abs(v[j])
        magnitude = bits[j] & _SIGNLESS
        largest = max(largest, magnitude)
        smallest = min(smallest, magnitude | void[j])
    return total, weight, largest, smallest


@njit(nogil=True, cache=True)
def _ranked(v: np.ndarray, m: int, links: np.ndarray) -> None:
    """Positions of v[:m] by magnitude, largest first, to the end of links; equal magnitudes keep their order.

    A term's place is the number of terms above it: for few terms faster than a sort.
    """
    first = 2 * BUCKETS + m
    ranks = 0
    for i in range(m):
        size = abs(v[i])
        above = 0
        for j in range(m):
            above += abs(v[j]) > size
        links[first + above] = i
        ranks += above
    if 2 * ranks == m * (m - 1):  # no two are equal
        return
    for i in range(m):
        size = abs(v[i])
        above = 0
        for j in range(m):
            above += abs(v[j]) > size or (abs(v[j]) == size and j < i)
        links[first + above] = i


@njit(nogil=True, cache=True)
def _exact(v: np.ndarray, m: int, void: np.ndarray, theta: float, bar: float) -> float:
    """`exact_threshold` of the terms that exist."""
    terms = v[:m][void[:m] == 0]
    return exact_threshold(terms, len(terms), theta, bar)


@njit(nogil=True, cache=True)
def threshold(
    v: np.ndarray,
    m: int,
    void: np.ndarray,
    theta: float,
    bar: float,
    keys: np.ndarray,
    sums: np.ndarray,
    links: np.ndarray,
) -> float:
    """NNSlicer's select: the magnitude above which the terms v[:m] are kept; infinite where none is.

    With S the sum and u the terms by magnitude, largest first: nothing where |S| < |u_m| or |S| < 1e-3 |u_1|; else
    |u_k| (1 - bar) for the first k at which |u_1 + .. + u_k - S| < theta |S| (the last k where there is none).
    The case of a single arg-max, 1 / m >= 1 - theta, is the caller's.

    Args:
        v: float64 terms.
        void: int64, VOID where there is no term and v is zero, else 0.
        keys, sums, links: `scratch` for m terms.
    """
    total, weight, largest_bits, smallest_bits = _sums(v, m, void)
    if largest_bits == 0:
        return np.inf
    sums.view(np.int64)[0], sums.view(np.int64)[1] = largest_bits, smallest_bits
    largest, smallest = sums[0], sums[1]
    error = 2.0 * (m + 2 * BUCKETS) * _EPSILON * weight  # bounds the rounding of all sums below together, in any order
    if abs(abs(total) - smallest) <= error or abs(abs(total) - 1e-3 * largest) <= error:
        return _exact(v, m, void, theta, bar)
    if abs(total) < smallest or abs(total) < 1e-3 * largest:
        return np.inf
    window = theta * abs(total)
    running = 0.0
    first = 2 * BUCKETS + m
    if m <= SMALL:
        _ranked(v, m, links)
        for k in range(m):
            running += v[links[first + k]]
            distance = abs(running - total)
            if abs(distance - window) <= error:
                return _exact(v, m, void, theta, bar)
            if distance < window:
                return abs(v[links[first + k]]) * (1.0 - bar)
        return smallest * (1.0 - bar)

    _into_buckets(v, m, largest_bits, keys, sums, links)
    slack = window + error
    for b in range(BUCKETS):
        up, down = sums[2 * b], sums[2 * b + 1]
        if running + up < total - slack or running - down > total + slack:
            running += up - down  # no running sum within this bucket can meet the condition
            continue
        count = _sorted_bucket(v, m, b, links)
        if count > CROWD:
            return _exact(v, m, void, theta, bar)
        for k in range(count):
            running += v[links[first + k]]
            distance = abs(running - total)
            if abs(distance - window) <= error:
                return _exact(v, m, void, theta, bar)
            if distance < window:
                return abs(v[links[first + k]]) * (1.0 - bar)
    return smallest * (1.0 - bar)


@njit(nogil=True, cache=True)
def _into_buckets(
    v: np.ndarray, m: int, largest: np.int64, keys: np.ndarray, sums: np.ndarray, links: np.ndarray
) -> None:
    """Put v[:m] into buckets by magnitude and sign: their sums, and their terms as a chain from the last one back."""
    bits, top = v.view(np.int64), largest >> _SHIFT
    for j in range(m):
        keys[j] = 2 * min(top - ((bits[j] & _SIGNLESS) >> _SHIFT), BUCKETS - 1) + np.int64(bits[j] < 0)
    sums[:] = 0.0
    links[: 2 * BUCKETS] = -1
    for j in range(m):
        b = keys[j]
        sums[b] += abs(v[j])
        links[2 * BUCKETS + j] = links[b]
        links[b] = j


@njit(nogil=True, cache=True)
def _sorted_bucket(v: np.ndarray, m: int, bucket: int, links: np.ndarray) -> int:
    """Positions of a bucket's terms by magnitude to the end of links, equals in order; how many, up to CROWD + 1."""
    first = 2 * BUCKETS + m
    count = 0
    for sign in range(2):
        j = links[2 * bucket + sign]
        while j >= 0 and count <= CROWD:
            size, i = abs(v[j]), first + count - 1
            while i >= first and (abs(v[links[i]]) < size or (abs(v[links[i]]) == size and links[i] > j)):
                links[i + 1] = links[i]
                i -= 1
            links[i + 1] = j
            count += 1
            j = links[2 * BUCKETS + j]
    return count


@njit(nogil=True, cache=True)
def threshold_of_two(a: float, b: float, theta: float, bar: float) -> float:
    """`threshold` of two terms, a the first. Their sum is rounded once as it is, so nothing is left to prove."""
    total = a + b
    larger, smaller = max(abs(a), abs(b)), min(abs(a), abs(b))
    if larger == 0.0 or abs(total) < smaller or abs(total) < 1e-3 * larger:
        return np.inf
    first = a if abs(a) >= abs(b) else b
    return (larger if abs(first - total) < theta * abs(total) else smaller) * (1.0 - bar)


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
    void: np.ndarray,
    share: float,
    keys: np.ndarray,
    sums: np.ndarray,
    links: np.ndarray,
) -> tuple[float, int]:
    """EffectivePath's select: the smallest set of the largest terms of v[:m] that sums to `share` of their sum.

    Args: as `threshold`, void zeros all; share of the sum, in (0, 1].
    Returns: (t, ties): keep every v > t, and the first `ties` of those equal to t. The arg-max where the sum is not
        above 0; (infinity, 0) where all terms are 0.
    """
    total, weight, largest, _ = _sums(v, m, void)
    if largest == 0:
        return np.inf, 0
    error = 2.0 * (m + 2 * BUCKETS) * _EPSILON * weight
    if abs(total) <= error:
        return exact_share(v, m, share)
    if total < 0.0:
        return v[argmax(v, m)], 1
    goal = share * total
    running = 0.0
    first = 2 * BUCKETS + m
    _into_buckets(v, m, largest, keys, sums, links)
    for b in range(BUCKETS):
        if running + sums[2 * b] < goal - error:
            running += sums[2 * b]
            continue
        count = _sorted_bucket(v, m, b, links)
        if count > CROWD:
            return exact_share(v, m, share)
        for k in range(count):
            term = v[links[first + k]]
            if term < 0.0:
                continue
            running += term
            if abs(running - goal) <= error:
                return exact_share(v, m, share)
            if running >= goal:
                ties = 1
                for i in range(k):
                    if v[links[first + i]] == term:
                        ties += 1
                return term, ties
    return exact_share(v, m, share)


@njit(nogil=True, cache=True)
def exact_share(v: np.ndarray, m: int, share: float) -> tuple[float, int]:
    """`smallest_share` as the rule is written."""
    values, size = np.empty(m + 1), np.empty(m)
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
