"""NNSlicer's select on products in float32, where these decide it.

A product of numbers rounded to float32 is within 3 * 2**-24 of the true one. So a comparison that comes out by more
than all such errors together is that of the rule itself; one that does not is told to be undecided, and the caller
makes it in float64 (`select`).

A term is kept as one whole number, its key: the bits of its magnitude, and behind them its sign. Keys order as
magnitudes do, and a term is all there again in its key.

Source: as `select`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lib.slicing.vectors import LANES, WIDE, clear, sort_16, sort_32, sort_64, split

FEW = 64  # terms that are sorted at once
MOST = 2**40 if WIDE else FEW  # terms of a sum; without AVX-512 packing takes longer than the buckets of `select`
LARGEST = 2.0**40  # of inputs and weights, so that no product overflows, and none above TINY is rounded to a denormal
UNDECIDED = -1.0
LEAST_BAR = 2.0**-18  # below, the smallest kept term is too near to its own limit
VOID = np.uint32(2**32 - 1)  # marks a term that does not exist
_TINY = 2.0**-60
_LEVELS = 10  # lists that wait while a part of them is looked at
_ERROR = 2.0**-20  # of a sum of terms, as a share of the sum of their magnitudes
_GUARD = 2.0**-20  # of a term, against another, with room
_CLOSE = np.uint32(15)  # keys that differ by no more may be in either order: 7 units in the last place
_APART = np.uint32(1024)  # of a cut from the key that it was made from
_ONE, _SIGN = np.uint32(1), np.uint32(31)


@njit(nogil=True, cache=True)
def scratch(m: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Room for the work on up to m terms.

    Returns: patch, float32, of m rounded up to 32, zeros; keys, uint32: of these terms, then lists, then marks of terms
        that do not exist, then the lists' lengths and cuts (one array, as each costs time in every call); how far lists
        lie apart in it.
    """
    size = (m + 2 * LANES - 1) // (2 * LANES) * 2 * LANES
    apart = size + FEW + LANES
    keys = np.zeros(apart * (_LEVELS + 1) + size + 2 * _LEVELS, np.uint32)
    keys[apart * (_LEVELS + 1) : apart * (_LEVELS + 1) + size] = VOID
    return np.zeros(size, np.float32), keys, apart


@njit(nogil=True, cache=True)
def voids(keys: np.ndarray, apart: int) -> np.ndarray:
    """Of `scratch`: 0 for each term that exists, else VOID."""
    return keys[apart * (_LEVELS + 1) :]


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "nnan"})
def products(weights: np.ndarray, o: int, patch: np.ndarray, keys: np.ndarray) -> tuple[float, float]:
    """Keys of weights[o] * patch; the sum of these terms and that of their magnitudes, at least the true one."""
    total, weight = 0.0, np.float32(0.0)
    for j in range(len(patch)):
        term = weights[o, j] * patch[j]
        total += np.float64(term)
        weight += abs(term)
        bits = np.float32(term).view(np.uint32)
        keys[j] = (bits << _ONE) | (bits >> _SIGN)
    return total, np.float64(weight) * (1.0 + len(patch) * 2.0**-23)


@njit(nogil=True, inline="always")
def _term(key: np.uint32) -> np.float32:
    return np.uint32((key >> _ONE) | (key << _SIGN)).view(np.float32)


@njit(nogil=True, inline="always")
def _magnitude(key: np.uint32) -> float:
    return np.float64(np.uint32(key >> _ONE).view(np.float32))


@njit(nogil=True, inline="always")
def _cut(keys: np.ndarray, start: int, n: int) -> np.uint32:
    """A key that about a third of a list is above, of a long one a fifth: of nine the third, or the second.

    Somewhat below it, as a key that is near to the cut may in truth be on the other side.
    """
    step = n // 9
    first, second, third = np.uint32(0), np.uint32(0), np.uint32(0)
    at = start + (step >> 1)
    for _ in range(9):
        key = keys[at]
        at += step
        key, first = min(first, key), max(first, key)
        key, second = min(second, key), max(second, key)
        third = max(third, key)
    return max(second if n >= 4 * FEW else third, _APART + np.uint32(2)) - _APART


@njit(nogil=True, cache=True)
def limit(
    m: int, count: int, total: float, weight: float, theta: float, bar: float, keys: np.ndarray, apart: int
) -> float:
    """`select.threshold` of terms whose keys are given, within 3 * 2**-24; UNDECIDED where that cannot tell.

    The largest terms are split off a list until few are left, which are sorted and added up; then the rest.

    Args:
        m: terms, those included that do not exist; count: those that do.
        total, weight: from `products`.
    """
    marks, cuts = apart * (_LEVELS + 1), len(keys) - _LEVELS
    lengths = cuts - _LEVELS
    error = _ERROR * weight + m * 2.0**-80
    size = abs(total)
    if size * count <= weight + error * count:  # else it is above the mean magnitude, so above the smallest
        smallest = VOID
        for j in range(m):
            smallest = min(smallest, keys[j] | keys[marks + j])
        if size <= _magnitude(smallest) * (1.0 + _GUARD) + error:
            return UNDECIDED
    window = theta * size
    slack = window + error
    running = -total
    level, start, here, n = 0, 0, apart, m
    looked = False
    while True:
        while n > FEW:
            cut = _cut(keys, start, n)
            below, above = here, here + apart
            for j in range(start, start + n, LANES):
                taken = split(keys, j, below, above, cut)
                above += taken
                below += LANES - taken
            taken = above - here - apart
            if taken == 0 or taken >= n or level + 2 == _LEVELS:  # equal terms, a crowd of them
                return UNDECIDED
            clear(keys, here + n - taken)
            clear(keys, above)
            keys[lengths + level] = n - taken
            level += 1
            keys[cuts + level] = cut
            here += apart
            start, n = here, taken
        clear(keys, start + n)
        if n <= 16:
            sort_16(keys, start, here)
        elif n <= 32:
            sort_32(keys, start, here)
        else:
            clear(keys, start + n + LANES)
            clear(keys, start + n + 2 * LANES)
            sort_64(keys, start, here)
        if not looked and size <= 1e-3 * _magnitude(keys[here]) * (1.0 + _GUARD) + error:
            return UNDECIDED
        looked = True
        keys[here + n] = keys[cuts + level] if level > 0 else np.uint32(0)  # all that come later are below
        closest = before = VOID
        for k in range(here, here + n):
            key = keys[k]
            closest = min(closest, np.uint32(before - key))
            before = key
            running += np.float64(_term(key))
            if abs(running) < slack:
                found = _magnitude(key) * (1.0 - bar)
                if (
                    min(closest, np.uint32(key - keys[k + 1])) <= _CLOSE
                    or abs(running) > window - error
                    or found < _TINY
                ):
                    return UNDECIDED
                return found
        if min(closest, np.uint32(before - keys[here + n])) <= _CLOSE or level == 0:
            return UNDECIDED
        level -= 1
        here -= apart
        start, n = here, int(keys[lengths + level])


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "nnan"})
def add(
    keys: np.ndarray, m: int, limit: float, mark: np.int32, synapses: np.ndarray, n: int, o: int, gathered: np.ndarray
) -> bool:
    """Add mark times the sign of each term above the limit; whether a term is too near to it to tell.

    Args:
        synapses: added to at [n, o], unless of length 0; gathered: added to.
    """
    low, high = np.float32(limit * (1.0 - _GUARD)), np.float32(limit * (1.0 + _GUARD))
    plus, minus, none = np.int32(mark), np.int32(-mark), np.int32(0)
    wanted = len(synapses) > 0
    near = np.float32(0.0)
    for j in range(m):
        term = _term(keys[j])
        near += np.float32(abs(term) >= low) - np.float32(abs(term) > high)
        local = plus if term > high else (minus if term < -high else none)
        gathered[j] += local
        if wanted:
            synapses[n, o, j] += local
    return bool(near > 0)
